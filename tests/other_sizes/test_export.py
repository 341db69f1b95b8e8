"""`python -m pipeline.convert format=…`: what is written runs in its own runtime and answers as in Keras."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from pipeline.common.errors import UserError
from pipeline.config import ConvertConfig, to_typed
from pipeline.convert import convert
from pipeline.heads import HEADS
from pipeline.models.build import build_model
from pipeline.other_sizes.convert import Conversion
from pipeline.other_sizes.export import EXPORTERS, SavedModel
from pipeline.other_sizes.matrix_resize import matrix_resize, with_matrix_resize
from pipeline.other_sizes.settings import Format
from tests.conftest import composed, run_program, typed

EXPORTED = [
    pytest.param(
        chosen,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(package) is None for package in exporter.packages),
            reason="needs pip install '.[export]'",
        ),
        id=chosen.name,
    )
    for chosen, exporter in EXPORTERS.items()
]


def _convert(*overrides: str) -> Path | None:
    return convert(to_typed(composed(*overrides, command="convert"), ConvertConfig))


@pytest.fixture
def flatten(tmp_path: Path) -> Path:
    """A model for 12×12 px of whole numbers."""
    model = keras.Sequential(
        [
            layers.Input((12, 12, 1), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.save(tmp_path / "own.keras")
    return tmp_path / "own.keras"


@pytest.mark.parametrize(
    ("given", "size"),
    [
        *(((28, 28), (28, 28)), ((42, 42), (28, 28)), ((57, 57), (28, 28)), ((14, 31), (28, 28)), ((5, 7), (7, 5))),
        *(((112, 80), (7, 5)), ((1, 3), (4, 4)), ((9, 6), (1, 1)), ((224, 300), (64, 64))),
    ],
)
def test_matrix_products_resize_as_tensorflow_does(given: tuple[int, int], size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((3, *given, 2), np.float32)
    expected = ops.image.resize(images, size, "bilinear", antialias=True)
    inputs = keras.Input((None, None, 2))
    received = keras.Model(inputs, matrix_resize(inputs, size))(images)
    # Its few addends are at most 1 and known to 6e-8, and TensorFlow rounds the places of the cells too.
    assert np.asarray(received) == pytest.approx(np.asarray(expected), abs=0 if given == size else 5e-6)


def test_matrix_products_stand_where_images_are_resized_and_nowhere_else() -> None:
    """In models within models too; what is resized in another way stays as it is."""
    inputs = keras.Input((None, None, 1))
    near = ops.image.resize(inputs, (8, 8), "nearest")
    inner = keras.Model(inputs, ops.image.resize(near, (5, 4), "bilinear", antialias=True))
    outer = keras.Input((None, None, 1))
    model = keras.Model(outer, layers.Flatten()(inner(outer)))
    rewritten = with_matrix_resize(model)
    left = [operation for operation in rewritten.operations if type(operation).__name__ == "Resize"]
    assert [operation.interpolation for operation in left] == ["nearest"]
    images = np.random.default_rng(0).random((2, 9, 11, 1), np.float32)
    assert np.asarray(rewritten(images)) == pytest.approx(np.asarray(model(images)), abs=2e-6)
    plain = keras.Sequential([layers.Input((4, 4, 1)), layers.Flatten()])
    assert with_matrix_resize(plain) is plain


def _answers(chosen: Format, output: Path, images: np.ndarray) -> np.ndarray:
    """As a program does that has the file or directory and its runtime."""
    if chosen is Format.saved_model:
        return np.asarray(tf.saved_model.load(output).signatures["serving_default"](images=images)["output_0"])
    if chosen is Format.onnx:
        import onnxruntime

        return np.asarray(onnxruntime.InferenceSession(output).run(None, {"images": images})[0])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(output))
    interpreter.resize_tensor_input(0, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("chosen", EXPORTED)
def test_a_converted_model_is_exported_for_any_size_and_number_of_raw_images(
    chosen: Format, flatten: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "given.npy", np.full((2, 12, 12, 1), 200, np.uint8))
    output = tmp_path / "new" / f"any{chosen.value}"
    arguments = (f"model={flatten}", f"format={chosen.name}", f"images={tmp_path / 'given.npy'}")
    assert _convert(*arguments, "way=resize_input", f"output={output}") == output
    said = capfd.readouterr()
    proofs = [
        line.partition(":")[0]
        for line in said.out.splitlines()
        if f"Same answers in Keras and in {chosen.name}" in line
    ]
    # 1.5·12 = 18, 2·12 + 1 = 25
    assert [proof.partition(" at ")[2] for proof in proofs] == [
        "12×12 px on 16 images",
        "18×18 px on 16 images",
        "25×25 px on 16 images",
        "12×12 px on 2 images",
    ]
    assert said.out.splitlines()[-1] == f"Written: {output}"
    assert said.err == ""
    assert list(output.parent.iterdir()) == [output]
    images = np.random.default_rng(1).integers(0, 256, (3, 30, 17, 1), np.uint8)
    _convert(f"model={flatten}", "way=resize_input", f"output={tmp_path / 'any.keras'}")
    expected = np.asarray(keras.saving.load_model(tmp_path / "any.keras")(images))
    assert _answers(chosen, output, images) == pytest.approx(expected, abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("chosen", EXPORTED)
def test_without_a_way_a_model_is_exported_as_it_is(
    chosen: Format, flatten: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(flatten.parent)
    output = _convert(f"model={flatten}", f"format={chosen.name}")
    assert output == flatten.parent / f"own{chosen.value or '-saved_model'}"
    assert capfd.readouterr().out.count("Same answers") == 1  # It takes no other size.
    images = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 1), np.uint8)
    expected = np.asarray(keras.saving.load_model(flatten)(images))
    assert _answers(chosen, output, images) == pytest.approx(expected, abs=1e-5)


@pytest.mark.long
def test_mistakes_of_an_export_get_one_message_and_write_nothing(
    flatten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    wrong = tmp_path / "x"
    for overrides, message in [
        (
            ["format=onnx", f"output={wrong}.tflite"],
            f"output={wrong}.tflite: has to end in .onnx. Use for example output=new.onnx",
        ),
        (["format=saved_model", f"output={tmp_path / 'there'}"], "is a directory that is there already"),
    ]:
        if message.endswith("onnx") and importlib.util.find_spec("tf2onnx") is None:
            continue
        with pytest.raises(UserError) as caught:
            _convert(f"model={flatten}", *overrides)
        assert message in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError) as caught:
        _convert(f"model={flatten}", "format=onnx")
    assert str(caught.value) == (
        "format=onnx: needs onnx and onnxruntime and tf2onnx, not installed here. Install the extra: "
        "pip install '.[export]'."
    )
    assert {path.name for path in tmp_path.iterdir()} == {"own.keras", "there"}


@pytest.mark.long
def test_an_export_that_answers_otherwise_or_fails_is_not_written(
    flatten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"model={flatten}", "format=saved_model", f"output={tmp_path / 'y'}")
    faithful = SavedModel.runner
    monkeypatch.setattr(SavedModel, "runner", lambda self, path: lambda images: faithful(self, path)(images) + 0.5)
    with pytest.raises(
        UserError,
        match="^format=saved_model: run in its own runtime, the model does not answer as in "
        "Keras at 12×12 px on 16 images: largest difference 5.0e-01, .* Nothing was written",
    ):
        _convert(*arguments)

    def refuses(self: SavedModel, model: keras.Model, path: Path) -> None:
        print("a note", file=sys.stderr)
        raise NotImplementedError("no such operation\nin this format")

    monkeypatch.setattr(SavedModel, "write", refuses)
    with pytest.raises(UserError) as caught:
        _convert(*arguments)
    assert str(caught.value) == (
        "format=saved_model: cannot hold this model: NotImplementedError: no such operation. Nothing was written. Use "
        "format=keras or format=onnx or format=litert."
    )
    assert list(tmp_path.iterdir()) == [flatten]


@pytest.mark.program
@pytest.mark.slow
@pytest.mark.parametrize("chosen", EXPORTED)
def test_the_program_exports_without_the_chatter_of_libraries_and_the_file_needs_no_tensorflow(
    chosen: Format, flatten: Path, tmp_path: Path
) -> None:
    done = run_program(
        "pipeline.convert", f"model={flatten}", "way=interpolate_map", f"format={chosen.name}", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    output = tmp_path / f"own-interpolate_map{chosen.value or '-saved_model'}"
    assert said[-1] == f"Written: {output}"
    assert len(said) == 9  # Two findings, the way, its proof, three of the export, the sizes, the place.
    if chosen is Format.saved_model:
        return
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "images = np.zeros((2, 20, 30, 1), np.uint8)\n"
        f"output = {str(output)!r}\n"
        + (
            "import onnxruntime\nanswers = onnxruntime.InferenceSession(output).run(None, {'images': images})[0]\n"
            if chosen is Format.onnx
            else "from ai_edge_litert.interpreter import Interpreter\n"
            "interpreter = Interpreter(output)\n"
            "interpreter.resize_tensor_input(0, images.shape)\n"
            "interpreter.allocate_tensors()\n"
            "interpreter.set_tensor(0, images)\n"
            "interpreter.invoke()\n"
            "answers = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])\n"
        )
        + "print(answers.shape, 'tensorflow' in sys.modules)\n"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert alone.stdout.strip() == "(2, 3) False", alone.stderr


CONFIGURATIONS = [
    *sorted([f"head={head.name}"] for head in HEADS),
    ["head=generalized_mean_pool", "head.trainable_p=true"],
    ["head=generalized_mean_pool", "head.p=2.5"],
    ["head=average_max_pool", "head.combine=concatenate"],
    ["head=conv_pool", "head.pool=full_window"],
    ["head=global_average_pool", "backbone=resnet"],
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)), ids=lambda number: " ".join(CONFIGURATIONS[number]))
def test_every_head_in_every_way_is_exported(number: int, times: int, tmp_path: Path) -> None:
    """Each in one of the formats, in turn; `--times 3` tries all three."""
    overrides = CONFIGURATIONS[number]
    config = typed("dataset=digits", *overrides)
    model = build_model(config.backbone, config.head, (28, 28, 1), 10, seed=0)
    conversion = Conversion(model, "a model", [28, 28])
    formats = [[*EXPORTERS][(number + turn) % len(EXPORTERS)] for turn in range(min(times, len(EXPORTERS)))]
    for package in itertools.chain.from_iterable(EXPORTERS[chosen].packages for chosen in formats):
        pytest.importorskip(package, reason="needs pip install '.[export]'")
    for way, chosen in itertools.product((None, *conversion.ways.values()), formats):
        output = tmp_path / f"{way.name if way else 'as_it_is'}{chosen.value}"
        proofs = list(conversion.export(way, output, chosen, 1e-5, None))
        of_export = [proof for proof in proofs if f"in {chosen.name}" in proof]
        assert len(of_export) == (1 if way is None and not config.head.takes_any_size else 3)
        assert output.exists()
