"""A backbone made of a model that MLflow has: the same weights as from its file, and one message where it is not."""

from __future__ import annotations

from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest

from pipeline.common.errors import ConfigError, UserError
from pipeline.models.backbones.pretrained import FromModel
from pipeline.models.backbones.small import SmallFcn
from pipeline.tracking.models import with_weights
from pipeline.tracking.settings import Tracking
from tests.program.forked import run_forked


@pytest.fixture(scope="module")
def run(tiny_study: Path) -> mlflow.entities.Run:
    """A recorded run with global average pooling."""
    client = mlflow.MlflowClient(f"sqlite:///{tiny_study / 'outputs' / 'mlflow.db'}")
    (found,) = client.search_runs(["1"], "params.head = 'global_average_pool'")
    return found


@pytest.mark.parametrize("uri", ["models:/{model}", "runs:/{run}/model"])
def test_a_recorded_model_gives_its_weights_to_a_backbone(uri: str, run: mlflow.entities.Run, tiny_study: Path) -> None:
    uri = uri.format(model=run.outputs.model_outputs[0].model_id, run=run.info.run_id)
    configured = FromModel(path=uri, trainable=False)
    assert configured.uri == uri
    backbone = with_weights(configured, Tracking(), tiny_study / "outputs")
    assert (backbone.uri, backbone.trainable) == (None, False)
    assert backbone.file is not None
    model = keras.saving.load_model(backbone.file)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    expected = model.get_layer("backbone")(images)
    # In the same order of operations, but with casts between them.
    assert backbone.build(1)(images).numpy() == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-5)
    # The same file each time, so that a run key that digests it is the same.
    assert with_weights(configured, Tracking(), tiny_study / "outputs").file == backbone.file


def test_a_backbone_that_needs_no_mlflow_asks_for_none(tmp_path: Path) -> None:
    backbone = SmallFcn()
    assert with_weights(backbone, Tracking(), tmp_path) is backbone


def test_a_model_that_is_not_there_is_named(tiny_study: Path, tmp_path: Path) -> None:
    for uri in ("models:/none/1", "runs:/0123456789abcdef0123456789abcdef/model"):
        with pytest.raises(ConfigError) as caught:
            with_weights(FromModel(path=uri), Tracking(), tiny_study / "outputs")
        assert str(caught.value).startswith(f"backbone.path={uri}: MLflow does not have it in sqlite:///{tiny_study}")
        assert "models:/NAME/VERSION, or the path of a .keras file." in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"output_dir=.*holds no results"):
        with_weights(FromModel(path="models:/none/1"), Tracking(), tmp_path)


def test_a_store_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"tracking.uri=http://127.0.0.1:9: the MLflow store does not answer"):
        with_weights(FromModel(path="models:/digits/1"), Tracking(uri="http://127.0.0.1:9"), tmp_path)


@pytest.mark.program
@pytest.mark.slow
def test_the_program_plans_on_a_recorded_model_and_names_one_that_is_missing(
    run: mlflow.entities.Run, tiny_study: Path, tmp_path: Path
) -> None:
    uri = f"runs:/{run.info.run_id}/model"
    settings = ["backbone=from_model", f"output_dir={tiny_study / 'outputs'}", "size_probe.sizes=[8]"]
    planned = run_forked("pipeline.plan", *settings, f"backbone.path={uri}", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    # The field of small_fcn is larger than the digits.
    assert "from_model: a cell of the map sees 13×13 px, and the image has 8×8; cells lie 4 px apart" in planned.stdout
    wrong = run_forked("pipeline.train", *settings, "backbone.path=models:/none/1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "backbone.path=models:/none/1: MLflow does not have it" in wrong.stderr
    assert "Traceback" not in wrong.stderr
