"""`python -m pipeline.convert`: what it recognises, proves, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from keras import layers

from pipeline.cli.messages import explain
from pipeline.common.errors import UserError
from pipeline.config import ConvertConfig, to_typed
from pipeline.convert import convert
from pipeline.other_sizes.ways import WAYS
from pipeline.other_sizes.ways.dense_to_conv import DenseToConv
from tests.conftest import composed
from tests.program.forked import run_forked


def _convert(*overrides: str) -> Path | None:
    return convert(to_typed(composed(*overrides, command="convert"), ConvertConfig))


@pytest.fixture
def sequential(tmp_path: Path) -> Path:
    model = keras.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.save(tmp_path / "own.keras")
    return tmp_path / "own.keras"


def test_a_users_own_model_is_converted_proved_and_written(
    sequential: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1))
    np.save(tmp_path / "given.npy", images)
    output = tmp_path / "new" / "any.keras"
    written = _convert(
        f"model={sequential}", "way=dense_to_conv", f"output={output}", f"images={tmp_path / 'given.npy'}"
    )
    said = capsys.readouterr().out
    assert f"{sequential}: images (?, 12, 12, 1) to (?, 3), trained at 12×12 px" in said
    assert "an extractor with feature map 6×6×4, Flatten, dense" in said
    assert "Same answers at 12×12 px on 128 random images: largest difference" in said
    assert "Same answers at 12×12 px on 5 images of" in said
    assert "Takes images of 12×12 px and more." in said
    assert f"Written: {output}" in said
    assert written == output
    assert [path.name for path in output.parent.iterdir()] == ["any.keras"]
    converted, original = (keras.saving.load_model(path, safe_mode=True) for path in (output, sequential))
    assert converted(images).numpy() == pytest.approx(original(images).numpy(), abs=1e-5)
    answers = converted(np.zeros((2, 30, 17, 1)))
    assert answers.numpy().sum(axis=1) == pytest.approx([1, 1])  # The softmax comes after the average.


def test_without_a_way_the_possible_ones_are_told(sequential: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(f"model={sequential}") is None
    said = capsys.readouterr().out
    assert [line.split(":")[0].strip() for line in said.splitlines() if "way=" in line] == [
        "way=resize_input",
        "way=dense_to_conv",
        "way=dense_to_conv_mean_max",
        "way=resize_map",
        "way=interpolate_map",
        "way=refit_dense, with images=DIR and sizes=[…]",
        "way=refit_dense_all, with images=DIR and sizes=[…]",
    ]
    assert list(sequential.parent.iterdir()) == [sequential]


def test_a_folder_of_images_is_a_proof_too(
    sequential: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        keras.utils.save_img(folder / f"{index}.png", np.full((20, 30, 3), 80 * index), scale=False)
    _convert(f"model={sequential}", "way=resize_map", f"output={tmp_path / 'x.keras'}", f"images={folder}")
    assert "on 3 images of" in capsys.readouterr().out


def _save(tmp_path: Path, name: str, *stack: keras.Layer) -> Path:
    keras.Sequential(list(stack)).save(tmp_path / name)
    return tmp_path / name


@pytest.mark.long
def test_mistakes_get_one_message_and_write_nothing(sequential: Path, tmp_path: Path) -> None:
    code = _save(tmp_path, "code.keras", layers.Input((8, 8, 1)), layers.Lambda(lambda x: 2 * x), layers.Flatten())
    anything = _save(
        tmp_path,
        "anything.keras",
        layers.Input((None, None, 1)),
        layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )
    short = tmp_path / "short.keras"
    short.write_bytes(sequential.read_bytes()[:500])
    old = _save(tmp_path, "old.h5", layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3))
    np.save(tmp_path / "wrong.npy", np.zeros((5, 9, 9, 1)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", np.zeros((5, 12, 12, 1)))
    (tmp_path / "empty.npy").touch()
    two_channels = _save(tmp_path, "two.keras", layers.Input((8, 8, 2)), layers.Flatten(), layers.Dense(3))
    for overrides, message in [
        ([f"model={code}"], "holds code (such as a Lambda layer), which is never run. Replace it by layers of Keras."),
        ([f"model={tmp_path / 'no.keras'}"], "there is no such file"),
        ([f"model={short}"], "is not in Keras's .keras format, or is cut short"),
        (
            [f"model={old}"],
            f"model in the older HDF5 format. Run python -c \"import keras; keras.saving.load_model('{old}', "
            f"compile=False).save('{tmp_path / 'old.keras'}')\" and give {tmp_path / 'old.keras'}.",
        ),
        ([f"model={anything}", "way=dense_to_conv"], "image_size=None: is needed"),
        (
            [f"model={sequential}", "image_size=[9,9]"],
            "image_size=[9, 9]: the model is built for 12×12 px. Leave it out.",
        ),
        ([f"model={sequential}", "way=global_pool"], "way=global_pool: is not for a model that ends in Flatten"),
        ([f"model={sequential}", "way=resize_maps"], "there is no such way"),
        ([f"model={sequential}", "way=resize_map", "output=x.h5"], "x.h5: has to end in .keras"),
        ([f"model={sequential}", "way=resize_map", "output=/proc/no/x.keras"], "cannot be written"),
        (
            [f"model={sequential}", "way=resize_map", f"images={tmp_path / 'wrong.npy'}"],
            "shape (5, 9, 9, 1); needed is",
        ),
        ([f"model={sequential}", "way=resize_map", f"images={tmp_path / 'objects.npy'}"], "cannot be read"),
        ([f"model={sequential}", "way=resize_map", f"images={tmp_path / 'empty.npy'}"], "cannot be read"),
        ([f"model={sequential}", "way=resize_map", f"images={tmp_path / 'several.npz'}"], "holds several arrays"),
        ([f"model={two_channels}", "way=resize_map", f"images={tmp_path}"], "the model takes images of 2 channels"),
        ([f"model={sequential}", "way=resize_map", "images=/no/such"], "there is no such file or directory"),
        ([f"model={sequential}", "way=resize_map", "tolerance=0"], "tolerance=0.0: must lie in (0, 1)"),
    ]:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError) as caught:
            _convert(
                *overrides, *([] if any("output" in text for text in overrides) else [f"output={tmp_path / 'y.keras'}"])
            )
        assert message in explain(caught.value), overrides
        assert sorted(tmp_path.iterdir()) == before


def test_answers_that_differ_are_not_written(sequential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that doubles the answers before the softmax is wrong on every processor, however that rounds."""
    averaged = DenseToConv.reduce
    monkeypatch.setattr(DenseToConv, "reduce", lambda way, answers: 2 * averaged(way, answers))
    output = tmp_path / "y.keras"
    with pytest.raises(UserError, match="does not answer like the original at 12×12 px .* Nothing was written"):
        _convert(f"model={sequential}", "way=dense_to_conv", f"output={output}")
    assert not output.exists()


@pytest.mark.slow
def test_a_recorded_model_is_converted(tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tiny_study / 'outputs' / 'mlflow.db'}")
    for head, way in (
        ("flatten_dense", "interpolate_map"),
        ("average_pool", "global_pool"),
        ("global_average_pool", "dense_to_conv"),
    ):
        (run,) = mlflow.MlflowClient().search_runs(["1"], f"params.head = '{head}'")
        uri = f"models:/{run.outputs.model_outputs[0].model_id}"
        arguments = [f"model={uri}", f"way={way}", f"output={tmp_path / head}.keras"]
        _convert(*arguments, f"output_dir={tiny_study / 'outputs'}")
        assert "trained at 8×8 px" in capsys.readouterr().out  # Where a model takes any size, its run says this.
        converted = keras.saving.load_model(tmp_path / f"{head}.keras", safe_mode=True)
        original = mlflow.keras.load_model(uri)
        images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1), np.uint8)
        assert converted(images).numpy() == pytest.approx(original(images).numpy(), abs=1e-5)
        assert converted(np.zeros((1, 20, 15, 1), np.uint8)).shape == (1, 10)


@pytest.mark.program
@pytest.mark.slow
def test_the_program_converts_and_explains(sequential: Path, tiny_study: Path, tmp_path: Path) -> None:
    done = run_forked("pipeline.convert", f"model={sequential.name}", "way=resize_map", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Written: {tmp_path / 'own-resize_map.keras'}"
    wrong = run_forked("pipeline.convert", "model=models:/none/1", f"output_dir={tiny_study / 'outputs'}", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "model=models:/none/1: MLflow does not have it" in wrong.stderr
    assert "Traceback" not in wrong.stderr


ENDS = {
    "Flatten": [layers.Flatten()],
    "AveragePooling2D over the whole map": [layers.AveragePooling2D(6), layers.Flatten()],
    "GlobalAveragePooling2D": [layers.GlobalAveragePooling2D()],
    "MaxPooling2D over the whole map": [layers.MaxPooling2D(6), layers.Flatten()],
    "GlobalMaxPooling2D": [layers.GlobalMaxPooling2D()],
    "a mean of rows": [layers.Reshape((36, 4)), layers.GlobalAveragePooling1D()],
}
ALLOWED = {
    "resize_input": set(ENDS),
    "global_pool": {"AveragePooling2D over the whole map", "MaxPooling2D over the whole map"},
    "resize_map": {"Flatten"},
    "interpolate_map": {"Flatten"},
    "dense_to_conv": set(ENDS) - {"a mean of rows"},
    "dense_to_conv_mean_max": set(ENDS) - {"a mean of rows"},
}


@pytest.mark.long
@pytest.mark.parametrize("way", [way.name for way in WAYS])
@pytest.mark.parametrize("end", ENDS)
def test_every_way_is_for_some_ends_and_refuses_the_others(end: str, way: str, tmp_path: Path) -> None:
    model = _save(tmp_path, "own.keras", layers.Input((8, 8, 1)), layers.Conv2D(4, 3), *ENDS[end], layers.Dense(3))
    arguments = (f"model={model}", f"way={way}", f"output={tmp_path / 'any.keras'}")
    if end in ALLOWED[way]:
        output = _convert(*arguments)
        assert output is not None
        assert keras.saving.load_model(output)(np.zeros((2, 11, 9, 1), np.float32)).shape == (2, 3)
        return
    with pytest.raises(UserError) as caught:
        _convert(*arguments)
    rule = (
        "is only for models that are recognised"
        if end == "a mean of rows"
        else f"is not for a model that ends in {end}"
    )
    assert str(caught.value).startswith(f"way={way}: {rule}. Use resize_input")


def test_a_mean_of_class_maps_has_no_dense_layer_to_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = (layers.Input((8, 8, 1)), layers.Conv2D(3, 3, name="maps"), layers.AveragePooling2D(6), layers.Flatten())
    model = _save(tmp_path, "own.keras", *stack)
    with pytest.raises(UserError) as caught:
        _convert(f"model={model}", "way=dense_to_conv", f"output={tmp_path / 'any.keras'}")
    assert str(caught.value) == (
        "way=dense_to_conv: is not for a model that ends in AveragePooling2D over the whole map, without a Dense "
        "layer. Use resize_input or global_pool."
    )
    assert _convert(f"model={model}", "way=global_pool", f"output={tmp_path / 'any.keras'}")
    assert "Recognised: an extractor with feature map 6×6×3, AveragePooling2D over the whole map\n" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize(("network", "way"), [("VGG16", "dense_to_conv"), ("MobileNetV2", "dense_to_conv")])
def test_networks_of_keras_applications_are_converted(network: str, way: str, tmp_path: Path) -> None:
    """VGG16 ends in Flatten and three Dense layers, MobileNetV2 in GlobalAveragePooling2D and one."""
    model = getattr(keras.applications, network)(weights=None, input_shape=(64, 64, 3), classes=10)
    model.save(tmp_path / "network.keras")
    output = _convert(f"model={tmp_path / 'network.keras'}", f"way={way}", f"output={tmp_path / 'any.keras'}")
    assert output is not None
    converted = keras.saving.load_model(output, safe_mode=True)
    assert np.asarray(converted(np.zeros((1, 96, 80, 3), np.float32))).sum() == pytest.approx(1)
