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
from pipeline.common.files import INCOMPLETE
from pipeline.comparison.settings import Asks, Statistics
from pipeline.study.conclude import conclude
from pipeline.tracking.settings import Tracking
from tests.conftest import ROOT
from tests.program.forked import run_forked
from tests.tracking.test_talk import ANSWERS, answering


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, whose report may be written again."""
    return shutil.copytree(tiny_study, tmp_path_factory.mktemp("copies") / "study")


def test_a_study_can_be_compared_at_any_time(study: Path, tiny_study: Path) -> None:
    result = run_forked("pipeline.compare", "study=heads", cwd=study)
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
    result = run_forked("pipeline.compare", *arguments, cwd=study)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_report_is_written_and_recorded_once(study: Path) -> None:
    of_a_killed_one = study / "outputs" / "studies" / "of_a_killed_one"
    (of_a_killed_one / f"{INCOMPLETE}runs.parquet-x").mkdir(parents=True)
    assert run_forked("pipeline.compare", "study=heads", cwd=study).returncode == 0
    of_a_killed_one.rmdir()  # It is empty.
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
    with pytest.raises(ConfigError, match=f"^sweep={re.escape(sweep)}: must be a name of at most 200 bytes, without"):
        conclude(runs, Statistics(), Asks(), Tracking(), tmp_path / "outputs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_snapshots_are_compared_with_each_other(tmp_path: Path) -> None:
    """The studies heads_by_size and size_transfer have the trainings at 28 px in common: 3 heads, 5 seeds."""
    studies = ROOT / "experiments" / "study"
    files = ",".join(str(studies / f"{name}.parquet") for name in ("heads_by_size", "size_transfer"))
    result = run_forked("pipeline.compare", f"snapshot=[{files}]", "asks.about=training_size", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "Mind: heads_by_size and size_transfer share 15 trainings (seeds 0, 1, 2, 3, 4): what they say of" in shown
    assert (tmp_path / "outputs" / "studies" / "heads_by_size+size_transfer" / "report.md").is_file()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("asks.about=sizes", "asks.about"),
        ("asks.about=trend", "asks.over=None: asks.about=trend needs the name of the setting that is swept"),
        ("asks.over=training.epochs", "asks.over=training.epochs: asks.about=null is over no setting"),
        ("asks.primary=[[a]]", "asks.primary=[['a']]: must be null or a list of pairs of two arms"),
    ],
)
def test_a_question_about_nothing_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    result = run_forked("pipeline.compare", "study=heads", setting, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["no HTTP", "half an answer", "a page", "another form", "a bug"])
def test_what_is_no_mlflow_server_is_told_in_one_line(answer: str, tmp_path: Path) -> None:
    with answering(ANSWERS[answer]) as uri:
        done = run_forked(
            *("pipeline.compare", "study=heads", f"tracking.uri={uri}", f"output_dir={tmp_path}"),
            cwd=tmp_path,
            environment={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert f"tracking.uri={uri}" in line
