"""Fashion-MNIST for real: all 70,000 images, prepared by TFDS from the original archives."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.data import source
from pipeline.data.settings import Dataset
from pipeline.heads.average import AveragePool
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.models.scores import accuracy
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways import ways_for
from tests.conftest import run_program

pytestmark = pytest.mark.real_data

BACKBONE = 65_568
"""Parameters of small_fcn on one channel; tests/models/test_backbones.py has the arithmetic."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """Store of a study of one seed and one epoch, run as a user runs it."""
    directory = tmp_path_factory.mktemp("fashion_mnist")
    result = run_program(
        "pipeline.train",
        "study=heads",
        "dataset=fashion_mnist",
        "seed=0",
        "training.epochs=1",
        "size_probe.max_images=1000",
        cwd=directory,
    )
    assert result.returncode == 0, result.stderr
    uri = f"sqlite:///{directory / 'outputs' / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def test_a_study_on_all_images(client: MlflowClient) -> None:
    """After one epoch every head is far above chance, and every number but accuracy is exact."""
    runs = {run.data.params["head"]: run for run in client.search_runs(["1"], "tags.study = 'heads'")}
    in_head = {"flatten_dense": 7 * 7 * 64 * 10 + 10, "average_pool": 64 * 10 + 10, "global_average_pool": 64 * 10 + 10}
    assert set(runs) == set(in_head)
    for head, run in runs.items():
        metrics, params = run.data.metrics, run.data.params
        assert metrics["params/head"] == in_head[head]
        assert metrics["params/total"] == BACKBONE + in_head[head] < 100_000
        # 60,000 for training, a tenth of them held out.
        assert (params["train_examples"], params["validation_examples"], params["test_examples"]) == (
            "54000",
            "6000",
            "10000",
        )
        assert metrics["test/accuracy"] > 0.5
        verdicts = [run.data.tags[f"size.{px:03d}px"] for px in (14, 21, 24, 28, 35, 42, 49, 56)]
        assert (
            verdicts
            == {
                "flatten_dense": ["refuses"] * 3 + ["native"] + ["refuses"] * 4,
                "average_pool": ["refuses"] * 3 + ["native"] + ["crops"] * 3 + ["refuses"],
                "global_average_pool": ["adapts"] * 3 + ["native"] + ["adapts"] * 4,
            }[head]
        )


def test_equal_weights_give_equal_logits_on_the_whole_test_split(client: MlflowClient, tmp_path: Path) -> None:
    """At the training size, a full-window AveragePooling2D and GlobalAveragePooling2D are one function."""
    data = source.load(Dataset(name="fashion_mnist"), 0, tmp_path)
    (run,) = client.search_runs(["1"], "params.head = 'average_pool'")
    trained = mlflow.keras.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    average, globally = (
        build_model(SmallFcn(), head, data.facts.image_shape, data.facts.classes, seed=1)
        for head in (AveragePool(), GlobalAveragePool())
    )
    for model in (average, globally):
        model.set_weights(trained.get_weights())
    logits, labels = predict(average, data.test(256))
    # Ten of 10,000: in batches of another size, rounding may turn a tie.
    assert accuracy(logits, labels) == pytest.approx(run.data.metrics["test/accuracy"], abs=0.001)
    difference = np.abs(logits - predict(globally, data.test(256))[0])
    print(
        f"max |Δ logit| over {len(labels)} test images: {difference.max():.2e}, logits up to {np.abs(logits).max():.1f}"
    )
    assert difference.shape == (10_000, 10)
    assert difference.max() < 1e-5 * np.abs(logits).max()  # Rounding is relative.


def test_converted_models_answer_like_their_originals_on_the_whole_test_split(
    client: MlflowClient, tmp_path: Path
) -> None:
    data = source.load(Dataset(name="fashion_mnist"), 0, tmp_path)
    for run in client.search_runs(["1"], "tags.study = 'heads'"):
        trained = mlflow.keras.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
        expected, _ = predict(trained, data.test(256))
        largest = np.abs(expected).max()
        parts = take_apart(trained, (28, 28))
        for way in ways_for(parts):
            name, model = way.name, way.convert(trained, parts, (28, 28))
            difference = np.abs(predict(model, data.test(256))[0] - expected)
            print(f"{run.data.tags['head']}, {name}: max |Δ logit| {difference.max():.1e}, logits up to {largest:.1f}")
            assert difference.shape == (10_000, 10)
            assert difference.max() < 1e-5 * largest
