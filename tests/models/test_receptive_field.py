"""What a cell sees and how far apart cells lie: by the formulas, by published numbers, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest
from keras import KerasTensor, layers

from pipeline.common.size import Size
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.pretrained import KerasApplication
from pipeline.models.backbones.small import ResNet, SmallFcn
from pipeline.models.reach import reach_of
from pipeline.models.receptive_field import ReceptiveField, receptive_field_of
from pipeline.training.settings import Precision
from tests.models.stacks import stacked


def chain(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Field and stride of a plain chain of layers, by the formulas of Araujo, Norris, Sim, 2019."""
    field, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


def field_of(extractor: keras.Model) -> ReceptiveField | None:
    return receptive_field_of(extractor, reach_of(extractor))


def square(side: int, stride: float) -> ReceptiveField:
    return ReceptiveField((side, side), (stride, stride))


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.long
def test_small_fcn_sees_13_px(precision: Precision, in_precision: Callable[[Precision], None]) -> None:
    in_precision(precision)
    assert chain([3, 3, 3, 3], [1, 2, 1, 2]) == (1 + 2 * 1 + 2 * 1 + 2 * 2 + 2 * 2, 4) == (13, 4)
    assert field_of(SmallFcn().build(1)) == square(13, 4)


@pytest.mark.parametrize("strides", [[1, 1], [2, 2, 2], [3, 1, 2], [5, 2], [11]], ids=str)
def test_a_chain_sees_what_the_formulas_say(strides: list[int]) -> None:
    backbone = SmallFcn(filters=[4] * len(strides), strides=strides)
    assert field_of(backbone.build(1)) == square(*chain([3] * len(strides), strides))


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        (SmallFcn(filters=[4] * 4, kernels=[1, 3, 1, 3]), 1 + 2 * 1 + 2 * 2),
        (SmallFcn(filters=[4] * 4, dilations=[2, 1, 3, 1]), 1 + 2 * (2 * 1 + 1 + 3 * 2 + 2)),
        (SmallFcn(filters=[4] * 4, dilations=[3, 1, 4, 1]), 1 + 2 * (3 * 1 + 1 + 4 * 2 + 2)),
    ],
    ids=["7", "23", "29"],
)
@pytest.mark.long
def test_kernels_and_dilations_change_what_a_cell_sees_alone(backbone: SmallFcn, side: int) -> None:
    extractor = backbone.build(1)
    assert backbone.map_shape(extractor, (28, 28)) == (7, 7, 4)
    assert field_of(extractor) == square(side, 4)


RESIDUAL = [
    # Two 3×3 convolutions a block after the stem of one; the path through all of them is the longest.
    (ResNet(filters=[4, 4, 4]), chain([3] * 7, [1, 1, 1, 2, 1, 2, 1]), 25),
    (ResNet(filters=[4, 4], blocks=2), chain([3] * 9, [1, 1, 1, 1, 1, 2, 1, 1, 1]), 25),
]


@pytest.mark.parametrize(("backbone", "of_chain", "side"), RESIDUAL, ids=["three stages", "two blocks"])
@pytest.mark.long
def test_a_residual_network_sees_what_its_longest_path_sees(
    backbone: Backbone, of_chain: tuple[int, int], side: int
) -> None:
    assert of_chain[0] == side
    assert field_of(backbone.build(1)) == square(*of_chain)


def _excited(x: KerasTensor) -> KerasTensor:
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    return layers.Multiply()(
        [x, layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))]
    )


def _attending(x: KerasTensor) -> KerasTensor:
    x = layers.Conv2D(4, 4, strides=4)(x)
    return layers.MultiHeadAttention(1, 4, attention_axes=(1, 2))(x, x)


def _upsampled(x: KerasTensor) -> KerasTensor:
    return layers.UpSampling2D()(layers.Conv2D(4, 4, strides=4)(x))


LAYERS = {
    "1×1": (stacked(layers.Conv2D(4, 1), layers.Conv2D(4, 1)), square(1, 1)),
    "1×1 with a stride": (stacked(layers.Conv2D(4, 1, strides=3)), square(1, 3)),
    "dilation": (stacked(layers.Conv2D(4, 3, dilation_rate=4, padding="same")), square(1 + 2 * 4, 1)),
    "even kernel": (stacked(layers.Conv2D(4, 4, strides=2, padding="same")), square(4, 2)),
    "even kernels": (
        stacked(layers.Conv2D(4, 2, padding="same"), layers.Conv2D(4, 4)),
        square(*chain([2, 4], [1, 1])),
    ),
    "no padding": (stacked(layers.Conv2D(4, 5), layers.Conv2D(4, 3, strides=2)), square(*chain([5, 3], [1, 2]))),
    "pooling": (stacked(layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.AveragePooling2D(3, 1)), square(8, 2)),
    "depthwise": (stacked(layers.DepthwiseConv2D(3, 2), layers.SeparableConv2D(4, 3)), square(3 + 2 * 2, 2)),
    "one axis": (stacked(layers.Conv2D(4, (5, 1), strides=(3, 2))), ReceptiveField((5, 1), (3, 2))),
    "large": (stacked(layers.Conv2D(4, (300, 1), strides=7, padding="same")), ReceptiveField((300, 1), (7, 7))),
    # One path alone leads to the farthest pixel, with 1 of 9 weights a layer: 9⁻⁶⁰ is 0 in float32.
    "deep": (stacked(*(layers.Conv2D(1, 3, padding="same") for _ in range(60))), square(1 + 60 * 2, 1)),
    "upsampling": (_upsampled, square(4, 2)),
    "squeeze and excitation": (_excited, ReceptiveField(None, (2, 2))),
    "attention": (_attending, ReceptiveField(None, (4, 4))),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.long
def test_every_kind_of_layer_is_told(name: str) -> None:
    features, expected = LAYERS[name]
    images = keras.Input((None, None, 1))
    assert field_of(keras.Model(images, features(images))) == expected


@pytest.mark.parametrize("strides", [[1, 2, 1, 2], [3, 2]], ids=str)
@pytest.mark.long
def test_the_fields_of_neighbouring_cells_lie_a_stride_apart(strides: list[int]) -> None:
    extractor = SmallFcn(filters=[4] * len(strides), strides=strides).build(1)
    reach, size = reach_of(extractor), (72, 72)
    _, rows, columns, _ = extractor.compute_output_shape((None, *size, 1))
    firsts = []
    for row in (rows // 2, rows // 2 + 1):
        cells = np.zeros((rows, columns), bool)
        cells[row, columns // 2] = True
        firsts.append(np.flatnonzero(reach(cells, size).any(axis=1))[0])
    field = receptive_field_of(extractor, reach)
    assert field is not None
    assert firsts[1] - firsts[0] == field.stride[0] == np.prod(strides)


def test_what_takes_no_such_image_has_none() -> None:
    images = keras.Input((None, None, 1))
    assert field_of(keras.Model(images, layers.Conv2D(4, 600)(images))) is None


@pytest.mark.slow
def test_mobilenet_v2_sees_491_px() -> None:
    """As the formula has it for its 3×3 convolutions: 491 px, at a stride of 32."""
    kernels, strides = [3, 3], [2, 1]  # The stem, and the block that expands nothing.
    for blocks, first in ((2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)):
        kernels += [3] * blocks
        strides += [first, *[1] * (blocks - 1)]
    assert chain(kernels, strides) == (491, 32)
    assert field_of(KerasApplication(application="MobileNetV2").build(3)) == square(491, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "expected"),
    [
        # The table of Araujo et al. (distill.pub/2019/computing-receptive-fields): resnet_v1_50 483, vgg_16 212,
        # mobilenet_v1 315, each at a stride of 32.
        ("ResNet50", square(483, 32)),
        ("VGG16", square(212, 32)),
        ("MobileNet", square(315, 32)),
        # Squeeze-and-excitation in every block.
        ("EfficientNetB0", ReceptiveField(None, (32, 32))),
    ],
)
def test_networks_of_keras_applications_see_what_is_published(application: str, expected: ReceptiveField) -> None:
    assert field_of(KerasApplication(application=application).build(3)) == expected


@pytest.mark.parametrize(
    ("field", "image", "words"),
    [
        (square(13, 4), (28, 28), "a cell of the map sees 13×13 of the 28×28 px; cells lie 4 px apart"),
        (square(13, 4), (13, 28), "a cell of the map sees 13×13 of the 13×28 px; cells lie 4 px apart"),
        (square(13, 4), (12, 28), "a cell of the map sees 13×13 px, and the image has 12×28; cells lie 4 px apart"),
        (ReceptiveField((5, 1), (3, 2)), (8, 8), "a cell of the map sees 5×1 of the 8×8 px; cells lie 3×2 px apart"),
        (ReceptiveField(None, (32, 32)), (64, 64), "a cell of the map sees the whole image; cells lie 32 px apart"),
    ],
)
def test_a_field_in_words(field: ReceptiveField, image: Size, words: str) -> None:
    assert field.in_words(image) == words
