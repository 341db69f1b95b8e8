"""A head on kept feature maps learns what it learns behind its frozen backbone."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

from pipeline.common.errors import ConfigError
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Cache, Dataset
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.base import FeatureCache
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import compiled
from pipeline.other_sizes.measure import measure_sizes
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.ways import ALL_WAYS
from pipeline.training.fit import fit
from pipeline.training.frozen import Fitting, fitting_of
from pipeline.training.settings import Augmentation, Strategy, Training
from tests.conftest import start_program
from tests.program.forked import run_forked

FROZEN = SmallFcn(filters=[8, 8], strides=[1, 2], trainable=False)
TRAINING = Training(epochs=2, batch_size=100)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


def _model(backbone: SmallFcn = FROZEN) -> keras.Model:
    return build_model(backbone, GlobalAveragePool(hidden_units=[16], dropout=0.5), (8, 8, 1), 10, seed=0)


def _fitting(data: Data, directory: Path, backbone: SmallFcn = FROZEN, training: Training = TRAINING) -> Fitting:
    return fitting_of(_model(backbone), backbone, training, data, "code", directory)


def _history(model: keras.Model, data: Data) -> list[float]:
    history: list[float] = []

    def note(_: int, metrics: dict[str, float]) -> None:
        history.extend(metrics.values())

    fit(model, data, TRAINING, note)
    return history


@pytest.mark.long
def test_a_head_learns_the_same_of_kept_maps(digits: Data, tmp_path: Path) -> None:
    whole = _model()
    kept = fitting_of(model := _model(), FROZEN, TRAINING, digits, "code", tmp_path)
    assert [id(variable) for variable in kept.model.variables] == [id(v) for v in model.get_layer("head").variables]
    assert kept.data.facts.image_shape == (4, 4, 8)
    histories = [_history(whole, digits), _history(kept.model, kept.data)]
    assert histories[0] == pytest.approx(histories[1], abs=1e-5)
    for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
        assert np.abs(one - other).max() < 1e-5  # The backbone's are equal, the head's but for rounding.


@pytest.mark.slow
def test_other_sizes_are_measured_the_same_from_kept_maps(digits: Data, tmp_path: Path) -> None:
    model = _model()
    kept = fitting_of(model, FROZEN, TRAINING, digits, "code", tmp_path).features
    logits, labels = model.predict(digits.test(360), verbose=0), digits.test_split.labels
    plan = SizePlan(FROZEN, GlobalAveragePool(hidden_units=[16], dropout=0.5), digits.facts)
    probe = SizeProbe(sizes=[6, 8, 13], max_images=200, ways=[way.name for way in ALL_WAYS])
    computed, from_kept, again = (
        measure_sizes(model, plan, probe, digits, logits, labels, features) for features in (None, kept, kept)
    )
    # Train, test; at 6 and at 13 px, in two modes, as they are and resized for the backbone; in two modes, training
    # images at three sizes, to fit a layer again, and test images at 8 px, where it is another one.
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2 + 2 * 2 * 2 + 2 * (3 + 1)
    for one, other, third in zip(computed, from_kept, again, strict=True):
        assert one.predictions.keys() == other.predictions.keys()
        for way, predictions in one.predictions.items():
            for mode, classes in predictions.classes.items():
                assert np.array_equal(classes, other.predictions[way].classes[mode])
                assert np.array_equal(classes, third.predictions[way].classes[mode])


@pytest.mark.parametrize(
    ("training", "dataset", "why"),
    [
        (dataclasses.replace(TRAINING, sizes=[6, 8]), Dataset(name="digits"), "training.sizes resizes each batch"),
        (
            dataclasses.replace(TRAINING, augmentation=Augmentation(flip=True)),
            Dataset(name="digits"),
            "training.augmentation changes each image",
        ),
        (dataclasses.replace(TRAINING, strategy=Strategy.mirrored), Dataset(name="digits"), "strategy=mirrored"),
        (TRAINING, Dataset(name="digits", cache=Cache.none), "dataset.cache=none keeps nothing"),
        (TRAINING, Dataset(name="digits", native_size=True, cache=Cache.memory), "dataset.native_size=true"),
    ],
    ids=["sizes", "augmentation", "strategy", "streamed", "natural"],
)
def test_why_a_frozen_backbone_runs_in_each_step_is_told(
    training: Training, dataset: Dataset, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    data = source.load(dataset, 0, tmp_path)
    fitting = _fitting(data, tmp_path / "features", training=training)
    assert (fitting.model.name, fitting.data, fitting.features) == (fitting.model.name, data, None)
    assert f"the frozen backbone runs in each step: {why}" in caplog.text or f"training.{why}" in caplog.text
    assert not (tmp_path / "features").exists()


def test_layers_that_draw_at_random_are_told(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    plain = SmallFcn.features
    monkeypatch.setattr(SmallFcn, "features", lambda self, images: keras.layers.Dropout(0.5)(plain(self, images)))
    assert _fitting(digits, tmp_path).features is None
    assert "runs in each step: it has layers that draw at random, such as dropout" in caplog.text


def test_what_trains_or_keeps_nothing_is_fitted_whole_without_a_word(
    digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    for change in ({"trainable": True}, {"feature_cache": FeatureCache.none}):
        assert _fitting(digits, tmp_path, dataclasses.replace(FROZEN, **change)).data is digits
    assert not caplog.records


def test_without_room_the_whole_is_fitted(digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = dataclasses.replace(FROZEN, feature_cache_gb=1e-6)
    assert _fitting(digits, tmp_path, small).data is digits
    # 1,437 maps of 4×4 cells with 8 channels of 4 bytes: 735,744.
    assert "there is no room for its feature maps, 0.7 MB (backbone.feature_cache_gb=1e-06)" in caplog.text


def test_rounded_maps_without_room_are_refused_and_not_mixed_with_others(digits: Data, tmp_path: Path) -> None:
    small = dataclasses.replace(FROZEN, feature_cache_gb=1e-6, feature_cache=FeatureCache.float16)
    with pytest.raises(ConfigError, match=r"feature_cache=float16: keeps feature maps rounded, and there is"):
        _fitting(digits, tmp_path, small)


FACTS_OF_THE_MACHINE = ("train/images_per_second", "cost/ms_per_image")


@pytest.mark.slow
def test_runs_record_the_same_with_and_without_kept_maps_and_compute_them_once(tmp_path: Path) -> None:
    """Two processes at once, then the same without: every metric and every weight is equal to the last bit.

    Where convolutions round otherwise in a batch of another size, maps that were computed in such batches do so, too:
    metrics are equal but for that there.
    """
    common = ("backbone.trainable=false", "training.deterministic=true", "training.epochs=2", "size_probe.sizes=[6,12]")
    heads = ("flatten_dense", "global_average_pool")
    both = [start_program("pipeline.train", f"head={head}", *common, cwd=tmp_path) for head in heads]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("computing the feature maps of train, once for all heads and seeds") == 1
    kept = [path for path in (tmp_path / "outputs" / "cache" / "features").iterdir() if path.is_dir()]
    assert len(kept) == 2 + 2 * 2 * 2
    done = run_forked(
        *("pipeline.train", "--multirun", f"head={','.join(heads)}", "backbone.feature_cache=none", *common),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    runs = {
        (run.data.params["head"], run.data.params["backbone.feature_cache"]): run.data
        for run in client.search_runs([experiment.experiment_id])
        if "head" in run.data.params  # The report of the sweep is a run, too.
    }
    assert len(runs) == 4
    for head in heads:
        with_maps, without = (
            {name: value for name, value in runs[head, kept].metrics.items() if name not in FACTS_OF_THE_MACHINE}
            for kept in ("float32", "none")
        )
        assert len(with_maps) >= 20
        assert with_maps == pytest.approx(without, rel=1e-6, nan_ok=True)  # NaN where a size is refused.
        if _rounds_alike_in_all_batches():
            # As text, NaN equals itself.
            assert {name: str(value) for name, value in with_maps.items()} == {
                name: str(value) for name, value in without.items()
            }
            assert runs[head, "float32"].tags["model_digest"] == runs[head, "none"].tags["model_digest"]


def _rounds_alike_in_all_batches() -> bool:
    """Whether this processor gives the same maps to the last bit in batches of 1,024, 32 and 37 images."""
    extract = compiled(SmallFcn(trainable=False).build(1))
    images = np.random.default_rng(0).integers(0, 256, (1024, 8, 8, 1), np.uint8)
    whole = extract(images).numpy()
    return all(
        np.array_equal(whole, np.concatenate([extract(images[at : at + size]) for at in range(0, 1024, size)]))
        for size in (32, 37)
    )
