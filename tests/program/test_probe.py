"""`python -m pipeline.probe` as a whole: what it prints, writes and records."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from keras import layers

from pipeline.common.errors import UserError
from pipeline.config import ProbeConfig, to_typed
from pipeline.probe import probe
from pipeline.tracking.models import load_source
from pipeline.tracking.queries import trained_runs
from pipeline.tracking.settings import Tracking
from tests.conftest import composed, run_program


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Red, green and blue are classes: the means of a window of 8×8 px, which crops images of up to 15 px."""
    images = keras.Input((None, None, 3))
    path = tmp_path / "colours.keras"
    keras.Model(images, layers.Flatten()(layers.AveragePooling2D(8)(images))).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of each colour, 10×9 px; the names of the folders have their order."""
    for channel, name in enumerate(("a red", "b green", "c blue")):
        (tmp_path / "paints" / name).mkdir(parents=True)
        image = np.zeros((10, 9, 3), np.uint8)
        image[..., channel] = 200
        for index in range(3):
            keras.utils.save_img(tmp_path / "paints" / name / f"{index}.png", image, scale=False)
    return tmp_path / "paints"


@pytest.mark.slow
def test_a_probe_is_printed_written_and_recorded(model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = [f"model={model.name}", f"images={folder.name}", "image_size=[8,8]", "size_probe.sizes=[4,8,12,16]"]
    done = run_program("pipeline.probe", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "colours.keras on 9 images of paints" in done.stdout
    convert = "python -m pipeline.convert model=colours.keras way=resize_input 'image_size=[8,8]'"
    assert "Below 8 px, resized: resize_input, 1.000 in 1 size; not told apart from the next, " in done.stdout
    assert convert in done.stdout
    assert run_program(*shlex.split(convert)[2:], cwd=tmp_path).returncode == 0

    directory = tmp_path / "outputs" / "probes" / "colours"
    assert sorted(path.name for path in directory.iterdir()) == ["probe.json", "probe.png"]
    table = json.loads((directory / "probe.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    as_is = {row["height_px"]: row for row in rows if (row["way"], row["mode"]) == ("as_is", "resize")}
    # The window sees 8·8 of 12·12 px; of nothing it makes no output, of 16 px 2·2·3 of them.
    assert {height: (row["verdict"], row["accuracy"]) for height, row in as_is.items()} == {
        4: ("refuses", None),
        8: ("native", 1),
        12: ("crops", 1),
        16: ("refuses", None),
    }
    assert [row["seen_pixels"] for row in as_is.values()] == pytest.approx([0, 1, 64 / 144, 0])
    # Wilson's interval of n of n is from n / (n + z²) to 1.
    assert (as_is[8]["low"], as_is[8]["high"]) == pytest.approx((9 / (9 + 1.959964**2), 1))

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("paints")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["probe"]) == ("FINISHED", "colours.keras")
    assert {key: value for key, value in run.data.tags.items() if key.startswith("size.")} == {
        "size.004px": "refuses",
        "size.008px": "native",
        "size.012px": "crops",
        "size.016px": "refuses",
    }
    expected = {"model": "colours.keras", "dataset": "paints", "image_size": "8×8", "test_examples": "9"}
    assert expected.items() <= run.data.params.items()

    def by_height(name: str) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}

    assert by_height("size/px") == {4: 4, 8: 8, 12: 12, 16: 16}
    assert by_height("size/seen_pixels") == by_height("size/seen_fraction") == {4: 0, 8: 1, 12: 64 / 144, 16: 0}
    for name in ("size/resize/accuracy", "size/canvas/accuracy"):
        found = by_height(name)
        assert (found[8], found[12], math.isnan(found[4]), math.isnan(found[16])) == (1, 1, True, True)
    assert by_height("size/resize_input/resize/accuracy") == {4: 1, 8: 1, 12: 1, 16: 1}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"probe.json", "probe.png"}
    assert trained_runs().empty  # Neither a study nor a sync takes it for a training.


@pytest.mark.slow
def test_a_recorded_model_is_judged_as_its_own_run_judged_it(tiny_study: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    shutil.copytree(tiny_study / "outputs", output)
    client = mlflow.MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    (run,) = client.search_runs(["1"], "params.head = 'global_average_pool'")
    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    overrides = (f"model={uri}", "dataset=digits", f"output_dir={output}", "size_probe.ways=[]")
    probe(to_typed(composed(*overrides, command="probe"), ProbeConfig))
    (probed,) = client.search_runs(["1"], f"tags.probe = '{uri}'")  # In the experiment of the dataset.
    for name in ("size/resize/accuracy", "size/canvas/accuracy", "size/seen_fraction", "size/seen_pixels"):
        of_run, of_probe = (
            {point.step: point.value for point in client.get_metric_history(one.info.run_id, name)}
            for one in (run, probed)
        )
        assert of_probe == of_run, name
    verdicts = [
        {key: value for key, value in one.data.tags.items() if key.startswith("size.")} for one in (run, probed)
    ]
    assert verdicts[0] == verdicts[1]
    # Its record names its classes.
    names = load_source(uri, Tracking(), output).class_names
    assert names == tuple("0123456789")


def test_mistakes_get_one_message_and_write_nothing(model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "d").mkdir()
    keras.utils.save_img(folder / "d" / "0.png", np.zeros((8, 8, 3)), scale=False)
    for overrides, message in [
        ([], "images=None: is needed, or else dataset=NAME, and not both"),
        ([f"images={folder}", "dataset=digits"], "is needed, or else dataset=NAME, and not both"),
        ([f"images={folder}", "scale=0"], "scale=0.0: must be a finite number other than 0"),
        ([f"images={folder}"], "image_size=None: is needed"),
        ([f"images={folder}", "image_size=[8,8]"], "has 4 classes (a red, b green, c blue, d), and"),
        (["dataset=digits", "image_size=[8,8]"], "dataset=digits: its images have 1 channels, and"),
    ]:
        config = composed(f"model={model}", f"output_dir={tmp_path / 'outputs'}", *overrides, command="probe")
        with pytest.raises(UserError) as caught:
            probe(to_typed(config, ProbeConfig))
        assert message in str(caught.value)
        assert not (tmp_path / "outputs").exists()
