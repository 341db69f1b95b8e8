"""`python -m pipeline.compare`, on a study that was run before."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.common.errors import ConfigError
from pipeline.comparison.settings import Statistics
from pipeline.study.conclude import conclude
from pipeline.tracking.settings import Tracking
from tests.conftest import run_program


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, whose report may be written again."""
    return shutil.copytree(tiny_study, tmp_path_factory.mktemp("copies") / "study")


def test_a_study_can_be_compared_at_any_time(study: Path, tiny_study: Path) -> None:
    result = run_program("pipeline.compare", "study=heads", cwd=study)
    assert result.returncode == 0, result.stderr
    printed = (study / "stdout.txt").read_text().replace(str(tiny_study), str(study))
    assert result.stdout.split() == printed[printed.index("At 8 px nothing can be said") :].split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["study=haeds"],
            "no run was recorded under this name. Recorded studies: heads. Did you mean heads?",
        ),
        (["study=heads", "sweep=x"], "sweep=x: no run was recorded under this name. Recorded studies: heads."),
        (["study=heads", "output_dir=elsewhere"], "elsewhere: holds no results: there is no mlflow.db."),
        ([], "study=None: is needed, or else snapshot=FILE, and not both. Use for example study=heads."),
        (["study=heads", "sede=1"], "sede=1: there is no such setting."),
    ],
)
def test_what_cannot_be_compared_is_named(study: Path, arguments: list[str], message: str) -> None:
    result = run_program("pipeline.compare", *arguments, cwd=study)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_report_is_written_and_recorded_once(study: Path) -> None:
    assert run_program("pipeline.compare", "study=heads", cwd=study).returncode == 0
    (directory,) = (study / "outputs" / "studies").iterdir()
    page, text = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    # One seed says nothing about others.
    assert "At 8 px nothing can be said: two arms with two seeds in common are the least." in page
    assert "| flatten_dense | 1 | 0." in text
    assert "http://127.0.0.1:5000/#/experiments/1/runs/" in page
    assert all(address.startswith("data:") for address in pd.Series(page).str.extractall('src="([^"]+)"')[0])

    mlflow.set_tracking_uri(f"sqlite:///{study / 'outputs' / 'mlflow.db'}")
    client = MlflowClient()
    (run,) = client.search_runs(["1"], "tags.report = 'heads'")
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "report.html",
        "report.md",
        "runs.parquet",
    }
    assert run.data.tags["mlflow.note.content"] == text
    description = client.get_experiment("1").tags["mlflow.note.content"]
    assert f"[report](#/experiments/1/runs/{run.info.run_id}/artifacts/report.html" in description


@pytest.mark.parametrize("sweep", ["../elsewhere", "..", "it's"])
def test_a_tag_of_a_shared_server_does_not_lead_elsewhere(sweep: str, tmp_path: Path) -> None:
    runs = pd.DataFrame({"run_id": ["1"], "experiment_id": ["1"], "sweep": [sweep]})
    with pytest.raises(ConfigError, match=f"^sweep={re.escape(sweep)}: must be a name without slashes and quotes"):
        conclude(runs, Statistics(), Tracking(), tmp_path / "outputs")
    assert list(tmp_path.iterdir()) == []
