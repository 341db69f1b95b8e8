"""What a store of many runs costs: `python tests/benchmarks/many_runs.py --runs 1000`.

Three heads are trained on digits for two epochs; their records are repeated under other seeds, each with answers of its
own. Then: time and memory of comparing all of them, of a new study beside them, and of the dashboard's answers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parents[2]
STUDY = ("pipeline.train", "study=heads", "training.epochs=2")
OF_A_RUN = ("params", "tags", "metrics", "latest_metrics")
"""Tables of MLflow's store with rows of a run; the recorded models and datasets are not repeated."""
PORT = 5077


def repeat(output_path: Path, runs: int, images: int | None) -> int:
    """Repeats the runs of seed 0 in a store under other seeds until it has so many; returns how many there are.

    Args:
        output_path: With the store.
        runs: To be there in the end.
        images: Test images of each, drawn from those that there are; None leaves them as they are.
    """
    draw = np.random.default_rng(0)
    with closing(sqlite3.connect(output_path / "mlflow.db")) as store, store:
        store.row_factory = sqlite3.Row
        templates = store.execute(
            "SELECT runs.* FROM runs JOIN params USING (run_uuid) WHERE key = 'seed' AND value = '0'"
        ).fetchall()
        rows_of = {
            (table, run["run_uuid"]): store.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run["run_uuid"],))
            for run in templates
            for table in OF_A_RUN
        }
        rows = {at: [dict(row) for row in found.fetchall()] for at, found in rows_of.items()}
        (count,) = store.execute("SELECT count(*) FROM params WHERE key = 'seed'").fetchone()
        while count < runs:
            template = templates[count % len(templates)]
            seed, run_id = str(1000 + count // len(templates)), uuid.uuid4().hex
            recorded = _artifacts(template)
            copy = recorded.parents[1] / run_id / "artifacts"
            shutil.copytree(recorded, copy, copy_function=os.link)
            _other_answers(recorded, copy, images, draw)
            _insert(store, "runs", {**template, "run_uuid": run_id, "artifact_uri": copy.as_uri()})
            for table in OF_A_RUN:
                for row in rows[table, template["run_uuid"]]:
                    changed = {**row, "run_uuid": run_id}
                    if table == "params" and row["key"] == "seed":
                        changed["value"] = seed
                    if table == "tags" and row["key"].startswith(("run_key", "pairing.")):
                        changed["value"] = f"{row['value']}{seed}"
                    _insert(store, table, changed)
            count += 1
        for run in templates if images is not None else []:  # At last: the copies are drawn from what was recorded.
            _other_answers(_artifacts(run), _artifacts(run), images, draw)
    return count


def _artifacts(run: sqlite3.Row) -> Path:
    return Path(run["artifact_uri"].removeprefix("file://"))


def _insert(store: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    store.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))


def _other_answers(recorded: Path, artifacts: Path, images: int | None, draw: np.random.Generator) -> None:
    """One answer in thirty becomes another one; which images are drawn is the same in all runs of the study."""
    for name in ("predictions.parquet", "size_predictions.parquet"):
        table = pd.read_parquet(recorded / name)
        if images is not None:
            table = table.iloc[np.random.default_rng(1).integers(len(table), size=images)].reset_index(drop=True)
        others = draw.random(len(table)) < 1 / 30
        for column in table:
            if column not in ("example_id", "label"):
                values = table[column].to_numpy().copy()
                values[others] = draw.permutation(values[others])
                table[column] = values
        (artifacts / name).unlink()  # A link to the template's.
        table.to_parquet(artifacts / name, index=False)


def measured(*arguments: str, cwd: Path) -> tuple[float, float]:
    """Seconds of `python -m ARGUMENTS`, and the most GiB that it was seen to hold."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit(f"python -m {' '.join(arguments)}: exit code {process.returncode}")
    return time.perf_counter() - began, peak / 2**30


def first_answers(cwd: Path) -> tuple[float, float]:
    """Seconds from the dashboard's start to its first answer, and of its page with the studies once it is up."""
    began = time.perf_counter()
    address = f"http://127.0.0.1:{PORT}"
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.dashboard", f"port={PORT}"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    ) as server:
        try:
            while True:
                with suppress(OSError):
                    urllib.request.urlopen(f"{address}/health").close()
                    break
                if server.poll() is not None:
                    raise SystemExit(f"the dashboard ended with exit code {server.returncode}")
                time.sleep(0.05)
            up = time.perf_counter() - began
            began = time.perf_counter()
            urllib.request.urlopen(f"{address}/studies").read()
            return up, time.perf_counter() - began
        finally:
            server.terminate()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="in the store (default: %(default)s)")
    parser.add_argument("--images", type=int, help="test images of each (default: the 360 of digits)")
    parser.add_argument("overrides", nargs="*", help="of the studies, such as size_probe.ways=[]")
    arguments = parser.parse_args()
    study = (*STUDY, *arguments.overrides)
    with tempfile.TemporaryDirectory() as directory:
        cwd = Path(directory)
        measured(*study, "seed=0", cwd=cwd)
        few, _ = measured(*study, "seed=1", cwd=cwd)
        count = repeat(cwd / "outputs", arguments.runs, arguments.images)
        store = (cwd / "outputs" / "mlflow.db").stat().st_size / 1e6
        many, _ = measured(*study, "seed=2", cwd=cwd)
        sweep, of_sweep = _largest_sweep(cwd / "outputs")
        compared, peak = measured("pipeline.compare", "study=heads", f"sweep={sweep}", cwd=cwd)
        report = (cwd / "outputs" / "studies" / sweep / "report.html").stat().st_size / 1e6
        up, page = first_answers(cwd)
    print(f"{count} runs: the store takes {store:.0f} MB, their report {report:.1f} MB")
    print(f"comparing the {of_sweep} of one study: {compared:.1f} s, at most {peak:.2f} GiB resident")
    print(f"a new study of three runs: {many:.1f} s, {many / few:.2f} of the {few:.1f} s beside six")
    print(f"the dashboard: up after {up:.1f} s, the page of the studies {page:.2f} s")


def _largest_sweep(output_path: Path) -> tuple[str, int]:
    """The name of the call that the repeated runs belong to, and how many do."""
    with closing(sqlite3.connect(output_path / "mlflow.db")) as store:
        (key, count) = store.execute(
            "SELECT key, count(*) FROM tags WHERE key LIKE 'sweep.%' GROUP BY key ORDER BY 2 DESC, 1 LIMIT 1"
        ).fetchone()
    return str(key).removeprefix("sweep."), count


if __name__ == "__main__":
    main()
