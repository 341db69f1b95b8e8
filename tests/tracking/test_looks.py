"""Seeds that are added after a look at the results are told."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.common.names import Tag
from pipeline.tracking.looks import seeds_added_after_a_look
from pipeline.tracking.publish import record_report
from pipeline.tracking.queries import membership, runs_of_sweep
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import experiment_id, open_store


@pytest.mark.slow
def test_seeds_added_after_a_look_are_told(tmp_path: Path) -> None:
    open_store(Tracking(), tmp_path)
    client = MlflowClient()
    experiment = experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())
    report = tmp_path / "report"
    report.mkdir()

    def call(sweep: str, runs: list[str], new_seeds: list[int]) -> list[str]:
        """A call of a study: earlier runs belong to it too, and new ones are trained."""
        for run_id in runs:
            client.set_tag(run_id, *membership(sweep))
        added = []
        for seed in new_seeds:
            with mlflow.start_run(
                experiment_id=experiment, tags={"head": "flat", "study": "heads", **dict([membership(sweep)])}
            ) as run:
                mlflow.log_params({"seed": seed, "head": "flat"})
            added.append(run.info.run_id)
        return [*runs, *added]

    runs = call("first", [], [0, 1, 2])
    assert seeds_added_after_a_look(runs_of_sweep("first")) == []  # Nobody has looked.
    runs = call("killed", runs, [3])
    assert seeds_added_after_a_look(runs_of_sweep("killed")) == []  # Still nobody: no report was made.
    record_report(experiment, runs_of_sweep("killed"), "text", report)
    assert seeds_added_after_a_look(runs_of_sweep("killed")) == []  # The same again adds nothing.
    call("second", runs, [4, 5])
    (sentence,) = seeds_added_after_a_look(runs_of_sweep("second"))
    assert sentence.startswith("these seeds were compared before without 4, 5: who adds seeds after a look")
    record_report(experiment, runs_of_sweep("second"), "text", report)
    assert seeds_added_after_a_look(runs_of_sweep("second")) == [sentence]  # It stays so.
    (recorded,) = client.search_runs([experiment], "tags.report = 'heads'")
    assert recorded.data.tags[Tag.LOOKS] == "killed,second"
