"""Each head: parameters by arithmetic, and its declared contract against what a model does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.errors import ConfigError
from pipeline.common.size import Size
from pipeline.heads.adaptive_average import AdaptiveAveragePool
from pipeline.heads.attention import AttentionPool
from pipeline.heads.average import AveragePool
from pipeline.heads.base import MEAN, Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import AverageMaxPool, GeneralizedMeanPool, GlobalAveragePool, GlobalMaxPool
from pipeline.heads.pointwise import ConvPool
from pipeline.heads.pyramid import SpatialPyramidPool
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.class_activation import class_activations
from pipeline.other_sizes.gradient import seen_cells
from pipeline.other_sizes.measure import rebuild
from pipeline.training.settings import Precision

NATIVE, ADAPTS, CROPS, REFUSES = Verdict.NATIVE, Verdict.ADAPTS, Verdict.CROPS, Verdict.REFUSES

PARAMETERS = [
    (FlattenDense(), 7 * 7 * 64 * 10 + 10),
    (FlattenDense(hidden_units=[128]), 7 * 7 * 64 * 128 + 128 + 128 * 10 + 10),
    (FlattenDense(dropout=0.5), 7 * 7 * 64 * 10 + 10),
    (AveragePool(), 64 * 10 + 10),
    (AveragePool(pool_size=[2, 2], strides=[1, 1]), 6 * 6 * 64 * 10 + 10),  # (7 - 2) // 1 + 1 = 6
    (AveragePool(pool_size=[2, 2], padding="same"), 4 * 4 * 64 * 10 + 10),  # ⌈7 / 2⌉ = 4
    (AveragePool(hidden_units=[32, 16]), 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10),
    (GlobalAveragePool(), 64 * 10 + 10),
    (GlobalAveragePool(keepdims=True), 64 * 10 + 10),
    (GlobalAveragePool(hidden_units=[128]), 64 * 128 + 128 + 128 * 10 + 10),
    (GlobalMaxPool(), 64 * 10 + 10),
    (GeneralizedMeanPool(), 64 * 10 + 10),
    (GeneralizedMeanPool(trainable_p=True), 1 + 64 * 10 + 10),
    (SpatialPyramidPool(), (1 + 4 + 16) * 64 * 10 + 10),
    (SpatialPyramidPool(levels=[3], hidden_units=[8]), 9 * 64 * 8 + 8 + 8 * 10 + 10),
    (ConvPool(), 64 * 10 + 10),
    (ConvPool(hidden_filters=[32, 16], class_relu=True), 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10),
    (ConvPool(pool="full_window"), 64 * 10 + 10),
    (AdaptiveAveragePool(), 7 * 7 * 64 * 10 + 10),
    (AverageMaxPool(), 64 * 10 + 10),
    (AverageMaxPool(combine="concatenate"), 2 * 64 * 10 + 10),
    (AttentionPool(), 64 + 4 * 65 * 64 + 64 * 10 + 10),
    # ⌈64 / 3⌉ = 22, of 3 attention heads
    (AttentionPool(attention_heads=3, hidden_units=[8]), 64 + 3 * 65 * 66 + 67 * 64 + 64 * 8 + 8 + 8 * 10 + 10),
    (AdaptiveAveragePool(bins=[2, 3], hidden_units=[8]), 2 * 3 * 64 * 8 + 8 + 8 * 10 + 10),
]


@pytest.mark.parametrize(("head", "parameters"), PARAMETERS, ids=str)
def test_parameters_equal_the_arithmetic(head: Head, parameters: int) -> None:
    built = head.build((7, 7, 64), 10)
    assert built.count_params() == parameters
    assert head.parameters((7, 7, 64), 10) == parameters
    assert built.output_shape == (None, 10)
    assert built.input_shape == ((None, None, None, 64) if head.takes_any_size else (None, 7, 7, 64))


CONTRACTS = [
    # head trained on 7×7, side of the map, verdict, share of the map that counts
    (FlattenDense(), 6, REFUSES, 0),
    (FlattenDense(), 7, NATIVE, 1),
    (FlattenDense(), 8, REFUSES, 0),
    (AveragePool(), 6, REFUSES, 0),  # m < p
    (AveragePool(), 7, NATIVE, 1),
    (AveragePool(), 8, CROPS, 49 / 64),  # p < m < 2p
    (AveragePool(), 13, CROPS, 49 / 169),
    (AveragePool(), 14, REFUSES, 0),  # m ≥ 2p
    (AveragePool(strides=[1, 1]), 8, REFUSES, 0),  # (8 - 7) // 1 + 1 = 2 windows
    (AveragePool(pool_size=[2, 2], strides=[3, 3]), 7, CROPS, 16 / 49),  # rows 0, 1, 3, 4 of 7: (7 - 2) // 3 + 1 = 2
    (AveragePool(pool_size=[2, 2], strides=[3, 3]), 6, CROPS, 16 / 36),  # also 2 windows
    (AveragePool(pool_size=[2, 2], padding="same"), 8, ADAPTS, 1),  # ⌈7 / 2⌉ = ⌈8 / 2⌉ = 4
    (AveragePool(pool_size=[2, 2]), 6, ADAPTS, 1),  # 7 // 2 = 6 // 2 = 3, and 6 is covered
    (AveragePool(pool_size=[2, 2]), 7, CROPS, 36 / 49),  # row and column 7 fall off
    (GlobalAveragePool(), 1, ADAPTS, 1),
    (GlobalAveragePool(), 7, NATIVE, 1),
    (GlobalAveragePool(), 14, ADAPTS, 1),
    (GlobalMaxPool(), 6, ADAPTS, 1),
    (GeneralizedMeanPool(), 14, ADAPTS, 1),
    (GeneralizedMeanPool(trainable_p=True), 6, ADAPTS, 1),
    (SpatialPyramidPool(), 1, ADAPTS, 1),  # bins share cells where there are fewer cells than bins
    (SpatialPyramidPool(), 7, NATIVE, 1),
    (ConvPool(), 7, NATIVE, 1),
    (ConvPool(hidden_filters=[8]), 14, ADAPTS, 1),
    (ConvPool(pool="full_window"), 6, REFUSES, 0),  # as AveragePool()
    (ConvPool(pool="full_window"), 8, CROPS, 49 / 64),
    (ConvPool(pool="full_window"), 14, REFUSES, 0),
    (AdaptiveAveragePool(), 6, ADAPTS, 1),  # bins share cells
    (AdaptiveAveragePool(), 7, NATIVE, 1),
    (AdaptiveAveragePool(bins=[2, 3]), 14, ADAPTS, 1),
    (AverageMaxPool(), 7, NATIVE, 1),
    (AverageMaxPool(combine="concatenate"), 6, ADAPTS, 1),
    (AttentionPool(), 7, NATIVE, 1),
    (AttentionPool(), 1, ADAPTS, 1),
    (AttentionPool(), 14, ADAPTS, 1),
]


@pytest.mark.parametrize(("head", "side", "verdict", "seen"), CONTRACTS, ids=str)
def test_contract_follows_the_rules(head: Head, side: int, verdict: Verdict, seen: float) -> None:
    contract = head.contract((7, 7), (side, side))
    assert contract.verdict is verdict
    assert contract.seen_fraction == pytest.approx(seen)
    assert contract.reason


HEADS = [
    FlattenDense(),
    FlattenDense(hidden_units=[8]),
    GlobalAveragePool(),
    GlobalAveragePool(keepdims=True),
    AveragePool(),
    AveragePool(strides=[1, 1]),
    AveragePool(padding="same"),
    *(
        AveragePool(pool_size=list(window), strides=strides, padding=padding)
        for window in ((2, 2), (3, 2))
        for strides in (None, [1, 1], [2, 3], [4, 4])
        for padding in ("valid", "same")
    ),
    GlobalMaxPool(),
    GeneralizedMeanPool(p=2.0),
    GeneralizedMeanPool(trainable_p=True),
    SpatialPyramidPool(),
    ConvPool(),
    ConvPool(hidden_filters=[8], class_relu=True),
    ConvPool(pool="full_window"),
    ConvPool(hidden_filters=[8], pool="full_window"),
    AdaptiveAveragePool(),
    AdaptiveAveragePool(bins=[3, 7], hidden_units=[8]),
    AverageMaxPool(),
    AverageMaxPool(combine="concatenate"),
    AttentionPool(),
    AttentionPool(attention_heads=2, hidden_units=[8]),
]


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.long
def test_declared_contract_is_what_the_model_does(head: Head) -> None:
    """Builds, copies the weights and takes gradients at every size from 1×1 to 9×11, after training on 4×5."""
    native, channels, classes = (4, 5), 3, 4
    trained = head.build((*native, channels), classes)
    sizes: list[Size] = [(rows, columns) for rows, columns in itertools.product((1, 2, 3, 4, 5, 8, 9), (4, 5, 6, 11))]
    for size in sizes:
        contract = head.contract(native, size)
        try:
            rebuilt = rebuild(head, trained, (*size, channels), native)
        except ValueError:
            assert contract.verdict is REFUSES, size
            continue
        assert contract.verdict is not REFUSES, size
        assert contract.seen_fraction == pytest.approx(seen_cells(rebuilt, (*size, channels)).mean()), size


def test_weights_that_fit_by_accident_are_refused() -> None:
    trained = FlattenDense().build((4, 5, 3), 4)
    with pytest.raises(ValueError, match="belong to cells of"):
        rebuild(FlattenDense(), trained, (5, 4, 3), native=(4, 5))


def test_a_window_larger_than_the_training_map_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"head.pool_size=\[9, 9\]: must fit into the 7×7 feature map"):
        AveragePool(pool_size=[9, 9]).build((7, 7, 64), 10)


def test_keepdims_changes_nothing_but_shapes() -> None:
    flat, kept = (GlobalAveragePool(keepdims=keepdims).build((7, 7, 4), 3) for keepdims in (False, True))
    kept.set_weights(flat.get_weights())
    maps = np.random.default_rng(0).random((5, 7, 7, 4), np.float32)
    assert np.array_equal(flat(maps), kept(maps))


@pytest.mark.long
@pytest.mark.parametrize("side", [7, 28, 56, 256])
@pytest.mark.parametrize("precision", Precision)
def test_a_full_window_is_the_global_average_in_every_precision(
    precision: Precision, side: int, in_precision: Callable[[Precision], None], tmp_path: Path
) -> None:
    """Saved and loaded too. Cells are multiples of 1/8 from 2 to 31/8, which each precision holds.

    Sums are exact in any order: 256 · 256 · 31 eighths are 2 million, below float32's 2²⁴. A mean rounds at most twice
    (times a rounded 1/n), by 2 · 2⁻²⁴ of less than 4, and each of 3 logits takes 8 of them, each times at most 1.
    """
    in_precision(precision)
    maps = np.random.default_rng(0).integers(16, 32, (2, side, side, 8)).astype(np.float32) / 8
    kernel = np.random.default_rng(1).uniform(-1, 1, (8, 3)).astype(np.float32)
    expected = maps.mean(axis=(1, 2), dtype=np.float64) @ kernel
    # And 8 products and their sum with a bias, below 8 · 4 = 32 in all, round 2 · 8 times.
    tolerance = 8 * 4 * 2 * 2**-24 + 32 * 2 * 8 * 2**-24
    for head in (AveragePool(), AveragePool(dropout=0.5), GlobalAveragePool(), GlobalAveragePool(keepdims=True)):
        assert head.collapsed_function((side, side)) == MEAN
        built = head.build((side, side, 8), 3)
        built.set_weights([kernel, np.zeros(3)])
        path = tmp_path / "head.keras"
        built.save(path)
        loaded = keras.saving.load_model(path, safe_mode=True)
        for model in (built, loaded):
            np.testing.assert_allclose(model(maps, training=False), expected, rtol=0, atol=tolerance, err_msg=str(head))


@pytest.mark.parametrize("side", [7, 28])
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.long
def test_class_maps_and_their_mean_are_the_mean_and_dense_in_every_precision(
    precision: Precision, side: int, in_precision: Callable[[Precision], None], tmp_path: Path
) -> None:
    """Saved and loaded too. Cells and weights are multiples of 1/8, which each precision holds.

    A cell's score is of 64ths and at most 8 · 31/8 = 31: no sum of it rounds, and nor does that over 28 · 28 cells, of
    at most 784 · 31 · 64 = 1.6 million, below float32's 2²⁴. A mean rounds at most twice, by 2⁻²⁴ of less than 32.
    """
    in_precision(precision)
    generator = np.random.default_rng(0)
    maps = generator.integers(16, 32, (2, side, side, 8)).astype(np.float32) / 8
    kernel = generator.integers(-8, 9, (8, 3)).astype(np.float32) / 8
    expected = maps.mean(axis=(1, 2), dtype=np.float64) @ kernel
    globally = GlobalAveragePool().build((side, side, 8), 3)
    globally.set_weights([kernel, np.zeros(3)])
    for head in (ConvPool(), ConvPool(dropout=0.5), ConvPool(pool="full_window")):
        assert head.function((side, side)) == GlobalAveragePool(dropout=head.dropout).function((side, side))
        built = head.build((side, side, 8), 3)
        built.set_weights([kernel[None, None], np.zeros(3)])
        built.save(tmp_path / "head.keras")
        loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
        for model in (built, loaded):
            assert model.output.dtype == "float32"
            np.testing.assert_allclose(model(maps, training=False), expected, rtol=0, atol=32 * 2 * 2**-24)
            # Those of the mean, Dense rounds: 8 products and their sum with a bias, and their means of less than 4.
            tolerance = 32 * 2 * 2**-24 + 8 * 4 * 2 * 2**-24 + 32 * 2 * 8 * 2**-24
            np.testing.assert_allclose(model(maps, training=False), globally(maps), rtol=0, atol=tolerance)


def test_class_maps_follow_their_formulas() -> None:
    """ReLU between 1×1 convolutions, on the class maps if asked for, and then the mean of each."""
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((2, 3, 4, 5), np.float32)
    hidden, last = generator.standard_normal((5, 6), np.float32), generator.standard_normal((6, 3), np.float32)
    scores = np.maximum(maps @ hidden, 0) @ last - 0.5
    for class_relu, of_cells in ((False, scores), (True, np.maximum(scores, 0))):
        head = ConvPool(hidden_filters=[6], class_relu=class_relu).build((3, 4, 5), 3)
        head.set_weights([hidden[None, None], np.zeros(6), last[None, None], np.full(3, -0.5)])
        assert head(maps).numpy() == pytest.approx(of_cells.mean(axis=(1, 2)), abs=1e-5)


def test_class_maps_are_a_function_of_their_own_with_layers_that_bend() -> None:
    heads = [
        GlobalAveragePool(),
        ConvPool(class_relu=True),
        ConvPool(hidden_filters=[8]),
        ConvPool(hidden_filters=[8], class_relu=True),
        GlobalAveragePool(hidden_units=[8]),
    ]
    assert len({head.function((7, 7)) for head in heads}) == len(heads)
    assert len({ConvPool(hidden_filters=[8], pool=pool).function((7, 7)) for pool in ConvPool.POOLS}) == 1


def test_class_maps_start_from_the_weights_of_dense_and_drop_channels_as_it_does() -> None:
    dense, convolution = (
        build_model(SmallFcn(), head, (8, 8, 1), 10, seed=3).get_layer("head")
        for head in (GlobalAveragePool(), ConvPool())
    )
    for one, other in zip(dense.get_weights(), convolution.get_weights(), strict=True):
        assert np.array_equal(one.ravel(), other.ravel())
    dropping = ConvPool(dropout=0.5).build((4, 4, 64), 64)
    dropping.set_weights([np.eye(64)[None, None], np.zeros(64)])
    # A channel is kept in all cells, and doubled, or in none.
    assert set(dropping(np.ones((1, 4, 4, 64), np.float32), training=True).numpy().ravel().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("hidden_units", [[], [16]], ids=str)
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.long
def test_a_bin_for_each_cell_is_flatten_in_every_precision(
    precision: Precision, hidden_units: list[int], in_precision: Callable[[Precision], None], tmp_path: Path
) -> None:
    """Saved and loaded too. A mean of one cell is the cell, bit by bit, so that Dense layers get what Flatten gives."""
    in_precision(precision)
    flat, binned = (head(hidden_units=hidden_units) for head in (FlattenDense, AdaptiveAveragePool))
    assert flat.function((5, 6)) == binned.function((5, 6))
    assert flat.function((5, 6)) != AdaptiveAveragePool(bins=[5, 5], hidden_units=hidden_units).function((5, 6))
    trained, built = (head.build((5, 6, 8), 3) for head in (flat, binned))
    built.set_weights(trained.get_weights())
    built.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    maps = np.random.default_rng(0).standard_normal((4, 5, 6, 8), np.float32)
    # As a backbone of that precision gives them.
    maps = tf.cast(maps, keras.config.dtype_policy().compute_dtype)
    inner = keras.Model(built.input, built.layers[-1].input), keras.Model(trained.input, trained.layers[-1].input)
    assert np.array_equal(*(tf.cast(model(maps), tf.float32) for model in inner))
    for model in (built, loaded):
        # Of the same numbers; which order they are added in is Eigen's, 240 products of up to about 4.
        np.testing.assert_allclose(model(maps), trained(maps), rtol=0, atol=240 * 4 * 2**-24)


def test_one_bin_is_the_mean() -> None:
    assert AdaptiveAveragePool(bins=[1, 1]).function((7, 7)) == GlobalAveragePool().function((7, 7))
    maps = np.random.default_rng(0).standard_normal((4, 5, 6, 8), np.float32)
    binned, globally = (head.build((5, 6, 8), 3) for head in (AdaptiveAveragePool(bins=[1, 1]), GlobalAveragePool()))
    globally.set_weights(binned.get_weights())
    np.testing.assert_allclose(binned(maps), globally(maps), rtol=0, atol=1e-6)


def test_bins_are_of_the_map_of_training_at_any_size() -> None:
    """Trained on 2×2; on the 3×3 map 1 … 9, bins are of cells 0–1 and 1–2, and of one cell, all bins are that."""
    pooled = keras.Input((None, None, 1))
    head = keras.Model(pooled, AdaptiveAveragePool().collapse(pooled, (2, 2)))
    # (1 + 2 + 4 + 5) / 4, and 1, 3 and 4 more
    assert head(np.arange(1.0, 10.0).reshape(1, 3, 3, 1)).numpy().ravel().tolist() == [3.0, 4.0, 6.0, 7.0]
    assert head(np.full((1, 1, 1, 1), 5.0)).numpy().ravel().tolist() == [5.0] * 4
    # Where images have sizes of their own, there is no such map.
    assert AdaptiveAveragePool().function(None) != FlattenDense().function(None)


@pytest.mark.parametrize("precision", Precision)
def test_mean_and_maximum_are_known_in_every_precision(
    precision: Precision, in_precision: Callable[[Precision], None]
) -> None:
    """On 256×256 cells of eighths, whose sums are exact in float32, see above, and in no half precision."""
    in_precision(precision)
    maps = np.random.default_rng(0).integers(16, 32, (1, 256, 256, 4)).astype(np.float32) / 8
    expected = np.concatenate([maps.mean(axis=(1, 2), dtype=np.float64), maps.max(axis=(1, 2))], axis=1)
    inputs = keras.Input((None, None, 4))
    both = keras.Model(inputs, AverageMaxPool(combine="concatenate").collapse(inputs, (256, 256)))
    mean = keras.Model(inputs, AverageMaxPool().collapse(inputs, (256, 256)))
    # A mean of less than 4 rounds twice; half the sum of two such, of less than 8, once more.
    np.testing.assert_allclose(both(maps), expected, rtol=0, atol=4 * 2 * 2**-24)
    halves = (expected[:, :4] + expected[:, 4:]) / 2
    np.testing.assert_allclose(mean(maps), halves, rtol=0, atol=4 * 2 * 2**-24 + 8 * 2**-24)


@pytest.mark.parametrize("precision", Precision)
def test_a_generalized_mean_with_p_of_one_is_the_mean_in_every_precision(
    precision: Precision, in_precision: Callable[[Precision], None]
) -> None:
    """Bit by bit, of negative numbers too; while p is trained, only of positive ones and but for rounding."""
    in_precision(precision)
    maps = np.random.default_rng(0).integers(-32, 32, (2, 28, 28, 8)).astype(np.float32) / 8
    inputs = keras.Input((None, None, 8))
    mean, fixed, trained = (
        keras.Model(inputs, head.collapse(inputs, (28, 28)))
        for head in (GlobalAveragePool(), GeneralizedMeanPool(p=1), GeneralizedMeanPool(p=1, trainable_p=True))
    )
    assert np.array_equal(fixed(maps), mean(maps))
    positive = np.abs(maps) + 1
    # Shares of the largest, 5, their powers, the mean, its power and the product each round by 2⁻²⁴ of 5 at most; the
    # sum of 28 · 28 shares adds errors up, in blocks and with random signs: below 28 of them.
    np.testing.assert_allclose(trained(positive), mean(positive), rtol=0, atol=(5 + 28) * 5 * 2**-24)
    assert GeneralizedMeanPool(p=1).function((7, 7)) == GlobalAveragePool().function((7, 7))
    assert GeneralizedMeanPool(p=1, trainable_p=True).function((7, 7)) != GlobalAveragePool().function((7, 7))


@pytest.mark.long
def test_a_trained_exponent_starts_from_p_learns_and_stays_at_one_or_above(tmp_path: Path) -> None:
    """It learns the p that answers are made with, and from answers below every mean with p ≥ 1, it learns 1."""
    maps = np.random.default_rng(0).uniform(0.1, 2, (64, 4, 4, 3)).astype(np.float32)
    inputs = keras.Input((None, None, 3))
    fixed = keras.Model(inputs, GeneralizedMeanPool(p=3).collapse(inputs, (4, 4)))
    of_six = keras.Model(inputs, GeneralizedMeanPool(p=6).collapse(inputs, (4, 4)))(maps)
    for answers, learned in ((of_six, 6.0), (maps.min(axis=(1, 2)), 1.0)):
        trained = keras.Model(inputs, GeneralizedMeanPool(p=3, trainable_p=True).collapse(inputs, (4, 4)))
        assert [weight.tolist() for weight in trained.get_weights()] == [[[2.0]]]  # p - 1
        np.testing.assert_allclose(trained(maps), fixed(maps), rtol=1e-6)
        trained.compile(keras.optimizers.Adam(0.1), "mse")
        for _ in range(200):
            trained.train_on_batch(maps, answers)
        assert trained.get_weights()[0].item() == pytest.approx(learned - 1, abs=0.01)
    trained.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(maps), trained(maps))


@pytest.mark.parametrize("precision", Precision)
def test_attention_follows_its_formula_in_every_precision(
    precision: Precision, in_precision: Callable[[Precision], None], tmp_path: Path
) -> None:
    """Each attention head: means of values with weights softmax(query · keys / √d); saved, at a size of its own."""
    in_precision(precision)
    generator = np.random.default_rng(0)
    inputs = keras.Input((None, None, 6))
    pool = keras.Model(inputs, AttentionPool(attention_heads=4).collapse(inputs, (3, 3)))  # d = ⌈6 / 4⌉ = 2
    weights = [generator.standard_normal(weight.shape) for weight in pool.get_weights()]
    pool.set_weights(weights)
    pool.save(tmp_path / "pool.keras")
    loaded = keras.saving.load_model(tmp_path / "pool.keras", safe_mode=True)
    maps = generator.integers(-8, 9, (2, 5, 4, 6)).astype(np.float32) / 8
    cells = maps.reshape(2, 20, 6)
    seed, *projections, out, out_bias = weights
    query, keys, values = (
        np.einsum("nmc,cad->namd", x, kernel) + bias[:, None]
        for x, kernel, bias in zip((seed[None], cells, cells), projections[::2], projections[1::2], strict=True)
    )
    scores = np.exp(np.einsum("nakd,aqd->nak", keys, query[0]) / 2**0.5)
    means = np.einsum("nak,nakd->nad", scores / scores.sum(axis=2, keepdims=True), values)
    expected = np.einsum("nad,adc->nc", means, out) + out_bias
    for model in (pool, loaded):
        assert model.output.dtype == "float32"
        assert model(maps).numpy() == pytest.approx(expected, abs=1e-4)


def test_attention_knows_what_is_in_a_cell_and_not_where_it_is() -> None:
    head = AttentionPool().build((3, 4, 8), 3)
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 8), np.float32)
    turned = maps[:, ::-1].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(head(turned), head(maps), rtol=0, atol=1e-6)
    # As a mean, it is the same of a map that is twice as large.
    np.testing.assert_allclose(head(maps.repeat(2, axis=1).repeat(2, axis=2)), head(maps), rtol=0, atol=1e-6)
    # It is no plain mean: of that in each cell, it says something else.
    mean = head(np.broadcast_to(maps.mean(axis=(1, 2), keepdims=True), maps.shape))
    assert np.abs(mean - head(maps)).max() > 1e-4


def test_dropout_acts_in_training_only() -> None:
    head = GlobalAveragePool(dropout=0.5).build((2, 2, 64), 3)
    maps = np.ones((1, 2, 2, 64), np.float32)
    assert np.array_equal(head(maps, training=False), head(maps, training=False))
    assert not np.array_equal(head(maps, training=True), head(maps, training=True))


def test_pooled_values_follow_the_formulas() -> None:
    """On the 3×3 map 1 … 9, whose only channel reaches the Dense layers."""
    feature_map = keras.ops.reshape(keras.ops.arange(1.0, 10.0), (1, 3, 3, 1))

    def pooled(head: Head) -> list[float]:
        inputs = keras.Input((None, None, 1))
        return keras.Model(inputs, head.collapse(inputs, (3, 3)))(feature_map).numpy().ravel().tolist()

    assert pooled(GlobalAveragePool()) == pytest.approx([5.0])  # 45 / 9, or 45 times a rounded 1 / 9
    assert pooled(GlobalMaxPool()) == [9.0]
    assert pooled(AverageMaxPool()) == pytest.approx([7.0])  # (5 + 9) / 2
    assert pooled(AverageMaxPool(combine="concatenate")) == pytest.approx([5.0, 9.0])
    assert pooled(GeneralizedMeanPool(p=1)) == pytest.approx([5.0])
    assert pooled(GeneralizedMeanPool(p=100)) == pytest.approx([9 * 9 ** (-1 / 100)])  # (8/9)¹⁰⁰ is 8e-6
    assert pooled(GeneralizedMeanPool(p=3)) == pytest.approx([225 ** (1 / 3)])  # 1³ + … + 9³ = 45² = 2025, / 9
    # Bins of 2 over 3 cells: ⌊3i / 2⌋ to ⌈3(i + 1) / 2⌉ - 1, which is 0–1 and 1–2: rows 123 456 and 456 789.
    assert pooled(SpatialPyramidPool(levels=[1, 2])) == [9.0, 5.0, 6.0, 8.0, 9.0]


@pytest.mark.parametrize("p", [1.0, 3.0, 20.0, 100.0])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_generalized_means_of_all_magnitudes_have_values_and_gradients(p: float, scale: float) -> None:
    """(mean xᵖ)^(1/p) = x for equal x, and its gradient is a 1/4 for each of four cells, however large p is."""
    head = GeneralizedMeanPool(p=p)
    inputs = keras.Input((None, None, 1))
    pool = keras.Model(inputs, head.collapse(inputs, (2, 2)))
    maps = tf.fill((1, 2, 2, 1), tf.constant(scale))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        pooled = pool(maps)
    np.testing.assert_allclose(pooled, [[scale]], rtol=1e-5)
    np.testing.assert_allclose(np.ravel(tape.gradient(pooled, maps)), [0.25] * 4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.long
def test_heads_that_say_so_are_a_sum_over_cells_and_a_bias(head: Head) -> None:
    """On the map of training, and on another if the trained head takes it; and the other heads are none.

    Weights are below 1, and cells below 4.
    """
    generator = np.random.default_rng(0)
    trained = head.build((4, 5, 3), 4)
    trained.set_weights([generator.uniform(-1, 1, weight.shape) for weight in trained.get_weights()])
    classes = np.array([0, 1, 2, 3, 0, 1])
    for size in ((4, 5), (5, 6)):
        if head.contract((4, 5), size).verdict is REFUSES:
            continue
        rebuilt = rebuild(head, trained, (*size, 3), (4, 5))
        maps, others = generator.uniform(-4, 4, (2, 6, *size, 3)).astype(np.float32)
        bias = rebuilt(0 * maps).numpy()
        together, logits, of_others = (rebuilt(x).numpy() - bias for x in (maps + others, maps, others))
        assert (np.abs(together - logits - of_others).max() < 1e-4) == head.is_linear, size
        if head.is_linear:
            given = class_activations(rebuilt)(maps, tf.constant(classes)).numpy()
            assert given.shape == (6, *size)
            # 4 · 5 · 3 products of up to 4, each rounded by 2⁻²⁴.
            expected = logits[np.arange(6), classes]
            np.testing.assert_allclose(given.sum(axis=(1, 2)), expected, rtol=0, atol=2 * 4 * 60 * 2**-24)


def test_what_a_cell_gives_to_a_class_is_its_product_with_the_weights() -> None:
    """A 1×2 map of 2 channels, [1, 2] and [3, 4]; class 0 has weights [1, 10] in a mean, class 1 has [-1, 0]."""
    maps = np.array([[[[1, 2], [3, 4]]]] * 2, np.float32)
    mean = GlobalAveragePool().build((1, 2, 2), 2)
    mean.set_weights([np.array([[1, -1], [10, 0]]), np.array([5, 5])])
    # (1 · 1 + 2 · 10) / 2 and (3 · 1 + 4 · 10) / 2; -1 / 2 and -3 / 2
    assert class_activations(mean)(maps, tf.constant([0, 1], tf.int64)).numpy().tolist() == [
        [[10.5, 21.5]],
        [[-0.5, -1.5]],
    ]
    flat = FlattenDense().build((1, 2, 2), 2)
    flat.set_weights([np.array([[1, 0], [10, 0], [0, 2], [0, 3]]), np.array([5, 5])])
    # The first cell has weights for class 0 alone, the second for class 1: 3 · 2 + 4 · 3.
    assert class_activations(flat)(maps, tf.constant([0, 1], tf.int64)).numpy().tolist() == [[[21, 0]], [[0, 18]]]
