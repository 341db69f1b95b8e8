"""A study in one file: the report made from it is the report that was made of the runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.errors import ConfigError
from pipeline.common.names import Tag
from pipeline.comparison.arms import newest_of_each_seed, paired_seeds, split_into_arms
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.settings import Asks, Statistics
from pipeline.comparison.shared import together
from pipeline.comparison.snapshot import read_snapshot, write_snapshot
from pipeline.other_sizes.ways import ALL_WAYS
from tests.comparison.studies import study
from tests.conftest import ROOT, run_program

SNAPSHOTS = sorted((ROOT / "experiments" / "study").glob("*.parquet"))


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == "heads" else pytest.mark.slow, id=path.stem) for path in SNAPSHOTS],
)
def test_findings_hold_the_tables_of_their_snapshot(path: Path) -> None:
    rows = [line for line in _page(path).splitlines() if line.startswith("|")]
    assert len(rows) > 10
    findings = path.with_suffix(".md").read_text().splitlines()
    assert [row for row in rows if row not in findings] == []


def _page(path: Path) -> str:
    return markdown_page(make_report(together([read_snapshot(path)]), Statistics(), ALL_WAYS, Asks()))


@pytest.mark.long
def test_the_command_reports_a_snapshot_without_a_store(tmp_path: Path) -> None:
    path = ROOT / "experiments" / "study" / "heads.parquet"
    result = run_program("pipeline.compare", f"snapshot={path}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs" / "studies" / "heads" / "report.md").read_text() == _page(path)
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


def test_what_says_where_somebodys_files_are_is_not_kept(tmp_path: Path) -> None:
    runs = study(seeds=1).assign(
        **{"params.output_dir": "/home/me", "params.tracking.uri": "http://host", "params.dataset.data_dir": "/data"}
    )
    write_snapshot(runs.assign(artifact_uri="file:///home/me"), tmp_path / "runs.parquet")
    read = read_snapshot(tmp_path / "runs.parquet")
    assert not {"params.output_dir", "params.tracking.uri", "params.dataset.data_dir", "artifact_uri"} & set(read)
    assert read["answers.test"].tolist() == runs["answers.test"].tolist()


def test_names_of_models_are_kept_without_their_folders(tmp_path: Path) -> None:
    """Arms may differ in them."""
    runs = study(seeds=1)
    given = ["/home/me/a.keras", "models:/a/1", "None"]
    runs["params.backbone.path"] = given * (len(runs) // 3)
    write_snapshot(runs, tmp_path / "runs.parquet")
    read = pd.read_parquet(tmp_path / "runs.parquet")["params.backbone.path"]
    assert list(read[:3]) == ["a.keras", "models:/a/1", "None"]


def test_a_file_that_is_no_snapshot_is_named(tmp_path: Path) -> None:
    for name, content in (("missing", None), ("text", b"not parquet"), ("other", pd.DataFrame({"a": [1]}))):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            content.to_parquet(path)
        with pytest.raises(ConfigError, match=f"snapshot={path}: (cannot be read|has no answers.test, metrics)"):
            read_snapshot(path)


def test_a_study_of_backbones_keeps_its_pairs_beside_one_that_knew_no_such_setting() -> None:
    """What says where weights come from stays, though the older snapshot has nothing of it."""
    transfer, older = (
        read_snapshot(ROOT / "experiments" / "study" / f"{name}.parquet")
        for name in ("transfer", "train_at_many_sizes")
    )
    for table in (transfer, together([transfer, older])):
        of_digits = table[(table[Tag.DATASET.column] == "digits") & (table[Tag.BACKBONE.column] == "from_model")]
        arms, _ = newest_of_each_seed(split_into_arms(of_digits))
        assert sorted(arms) == ["fine_tuned", "from_scratch", "frozen"]
        assert paired_seeds(arms) == ((0, 1, 2, 3, 4), [])
