"""Time and memory of comparing a study of 300 runs: `python tests/benchmarks/comparison_time.py`.

The runs are those of the study `heads` on Fashion-MNIST, repeated under other seeds: 10,000 test images, 15 conditions.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "experiments" / "study" / "heads.parquet"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=10, help="of the study's 30 runs (default: %(default)s)")
    arguments = parser.parse_args()
    runs = pd.read_parquet(SNAPSHOT)
    seeds = runs["params.seed"].astype(int)
    pairing = [column for column in runs if column.startswith("tags.pairing.")]
    copies = []
    for copy in range(arguments.copies):
        renamed = {"params.seed": (seeds + 1000 * copy).astype(str), "run_id": runs["run_id"] + f"-{copy}"}
        copies.append(runs.assign(**renamed, **{column: runs[column] + str(copy) for column in pairing}))
    with tempfile.TemporaryDirectory() as directory:
        many = Path(directory) / "many.parquet"
        pd.concat(copies, ignore_index=True).to_parquet(many, index=False)
        command = [sys.executable, "-m", "pipeline.compare", f"snapshot={many}", f"output_dir={directory}"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{arguments.copies * len(runs)} runs: {seconds:.1f} s, at most {peak:.2f} GiB resident")


if __name__ == "__main__":
    main()
