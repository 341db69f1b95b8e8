"""The program as users run it: as a process of its own, with its exit codes and what it prints."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.conftest import HANG_SECONDS, ROOT, read_until, run_program, start_program
from tests.program.forked import run_forked

WRONG = [
    # what is typed, what the message begins with
    ("head=global_avg_pool", "head=global_avg_pool: there is no such option"),
    ("head.keepdim=true", "head.keepdim=true: there is no such setting"),
    ("head=null", "head=null: Config group override must be a string or a list"),
    ("training.epochs=many", "training.epochs=many: Value 'many'"),
    ("head=average_pool head.strides=[-1,1]", "head.strides=[-1, 1]: must be"),
    ("dataset.validation_fraction=1.5", "dataset.validation_fraction=1.5: must lie in"),
    ("training.batch_size=0", "training.batch_size=0: must be at least 1"),
    ("size_probe.sizes=[]", "size_probe.sizes=[]: must be null or"),
    pytest.param(
        "head=average_pool head.pool_size=[9,9]",
        "head.pool_size=[9, 9]: must fit into the 2×2 feature map",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("dataset=tfds dataset.name=no_such_dataset", "dataset.name=no_such_dataset: TFDS"), marks=pytest.mark.slow
    ),
    pytest.param(
        "backbone.strides=[4,4,4,4]", "backbone=small_fcn needs images of at least 256×256 px", marks=pytest.mark.slow
    ),
    pytest.param(
        "dataset=tfds dataset.name=oxford_flowers102", "dataset.image_size=None: is needed", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("overrides", "beginning"), WRONG)
def test_a_mistake_gets_one_message_and_exit_code_2(overrides: str, beginning: str, tmp_path: Path) -> None:
    result = run_program("pipeline.train", *overrides.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr + result.stdout
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message.startswith(f"Error: {beginning}")
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


@pytest.mark.parametrize(
    "arguments", ["--help", "--cfg job", pytest.param("training.epochs=1", marks=pytest.mark.slow)]
)
def test_a_reader_that_goes_ends_the_command_without_a_word(arguments: str, tmp_path: Path) -> None:
    process = start_program("pipeline.train", *arguments.split(), cwd=tmp_path, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # As `| head` does, after its lines.
    assert process.stderr.read() == ""
    assert process.wait(timeout=HANG_SECONDS) == 128 + signal.SIGPIPE


def test_the_study_ends_with_its_tables_and_the_way_to_the_dashboard(tiny_study: Path) -> None:
    lines = (tiny_study / "stdout.txt").read_text().splitlines()
    tables = [index for index, line in enumerate(lines) if line.startswith("┏")]
    assert len(tables) == 2  # Of the arms, and of the scores beside accuracy.
    rows = {line.split("│")[1].strip(): line for line in lines[: tables[1]] if line.startswith("│")}
    for head, total, in_head, above in (
        ("flatten_dense", "68,138", "2,570", "refuses"),
        ("average_pool", "66,218", "650", "crops (10–12 px)"),
        ("global_average_pool", "66,218", "650", "adapts"),
    ):
        cells = [cell.strip() for cell in rows[head].split("│")]
        assert cells[2:3] + cells[4:6] == ["1", total, in_head]
        assert above in rows[head]
    assert "calibration error" in lines[tables[1] + 1]
    *_, how, view, link = lines
    assert how == f"Compare in the dashboard: python -m pipeline.dashboard output_dir={tiny_study}/outputs, then open"
    assert view == "digits, heads: heads compared"
    assert link.strip() == (
        "http://127.0.0.1:5000/#/experiments/1/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=study-heads"
    )


def test_the_command_line_wins_over_the_study(tiny_study: Path) -> None:
    runs = MlflowClient(f"sqlite:///{tiny_study / 'outputs' / 'mlflow.db'}").search_runs(["1"], "tags.study = 'heads'")
    assert {run.data.params["seed"] for run in runs} == {"0"}  # seed=0 instead of the study's 0,1,2


def test_plan_prints_the_verdicts_and_writes_nothing(tmp_path: Path) -> None:
    result = run_program("pipeline.plan", "head=average_pool", "dataset=fashion_mnist", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # Of 3×3 windows, strides 1, 2, 1, 2: 1 + 2 + 2 + 2·2 + 2·2 = 13.
    assert result.stdout.splitlines()[0] == (
        "small_fcn: a cell of the map sees 13×13 of the 28×28 px; cells lie 4 px apart; 65,568 parameters."
    )
    rows = [[cell.strip() for cell in line.split("│")[1:7]] for line in result.stdout.splitlines() if line[0] == "│"]
    rows = [row for row in rows if row[0]]  # not the second lines of long reasons
    assert rows[-1][:4] == ["56×56", "14×14", "2×2", "refuses"]
    assert ["35×35", "9×9", "1×1", "crops", "60%", "89%"] in rows  # 49 / 81 and (33 / 35)²
    # 28 is a multiple of 4, the product of the strides. 14 to 24 px and 56 px are refused.
    assert result.stdout.rstrip().endswith("by a pixel or two may help: 35 to 36, 42 to 40, 49 to 48 px.")
    assert list(tmp_path.iterdir()) == []


def test_help_and_cfg_answer_without_tensorflow(tmp_path: Path) -> None:
    for flags in (["--help"], ["--cfg", "job"]):
        result = run_program("pipeline.train", *flags, cwd=tmp_path)
        assert result.returncode == 0
        assert "global_average_pool" in result.stdout
    code = (
        "import sys, pipeline.train, pipeline.plan; sys.exit(any(m in sys.modules for m in ('tensorflow', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_a_plan_of_a_study_litters_nothing_but_output_dir(tmp_path: Path) -> None:
    result = run_program("pipeline.plan", "study=heads", "seed=0", "size_probe.sizes=[8]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("sent", "exit_code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_stopping_a_run_marks_it_killed(sent: signal.Signals, exit_code: int, tmp_path: Path) -> None:
    process = start_program("pipeline.train", "training.epochs=1000", cwd=tmp_path, stderr=subprocess.PIPE)
    read_until(process, "epoch 2/")
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == exit_code
    assert "Traceback" not in stderr
    (run,) = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_deterministic_runs_are_bit_identical(tmp_path: Path) -> None:
    """Metrics and weights of two runs with one seed, each in a process of its own."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        result = run_forked(
            "pipeline.train", "training.deterministic=true", "training.epochs=3", "seed=7", cwd=tmp_path / name
        )
        assert result.returncode == 0, result.stderr
    metrics, weights = [], []
    for name in ("first", "second"):
        uri = f"sqlite:///{tmp_path / name / 'outputs' / 'mlflow.db'}"
        (run,) = MlflowClient(uri).search_runs(["1"])
        metrics.append(
            {
                key: [
                    (metric.step, repr(metric.value))  # NaN, where a way refuses a size, equals itself.
                    for metric in MlflowClient(uri).get_metric_history(run.info.run_id, key)
                ]
                for key in run.data.metrics
                if key not in ("train/images_per_second", "cost/ms_per_image")
            }
        )
        mlflow.set_tracking_uri(uri)
        weights.append(mlflow.keras.load_model(f"models:/{run.outputs.model_outputs[0].model_id}").get_weights())
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) >= 15
    assert all(np.array_equal(first, second) for first, second in zip(*weights, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [["tracking.uri=http://me:hunter2@host:5000"], ["study=heads", "++tracking.uri='http://me:hunter2@host'"]],
    ids=["run", "study"],
)
def test_a_password_in_an_address_is_neither_printed_nor_written(arguments: list[str], tmp_path: Path) -> None:
    result = run_program("pipeline.train", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("\nError: tracking.uri=http://***@host: must not hold a user or a password")
    assert "hunter2" not in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())
