"""One study: statistics, a report, and the way to the dashboard: `python -m pipeline.compare study=heads`."""

from __future__ import annotations

import functools
import shlex
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pipeline import cli, report, snapshot, storage
from pipeline.analysis import Statistics, analyse
from pipeline.config import PROJECT_ROOT, Comparison, absolute, to_typed
from pipeline.errors import ConfigError, UserError, require_plain_name, suggestion
from pipeline.launch import ENDS_ITS_WORKERS
from pipeline.tables import terminal
from pipeline.tracking import delivery, resume, store, study, views
from pipeline.tracking.store import Tracking

if TYPE_CHECKING:
    import pandas as pd


class CompareStudy(Callback):
    """Compares the runs of a sweep when the last of them has ended. Hydra calls it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tries the server: a wrong address shows before hours of training, and later on its silence does no harm."""
        try:
            settings = _tracking(config)
            if settings.is_server:
                store.open_store(settings, absolute(config.output_dir))
        except UserError as error:
            cli.end(str(error))
        if config.hydra.runtime.choices["hydra/launcher"] in ENDS_ITS_WORKERS:
            cli.if_stopped(functools.partial(self._end_open_runs, config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        finished = None
        try:
            finished = self._compare(config)
        except Exception as error:  # Of a callback, Hydra would make a warning, and the command end in success.
            cli.fail_at_end(f"The runs could not be compared: {cli.explain(error)}")
            if not isinstance(error, UserError):
                traceback.print_exc()
        cli.tell_failures(Path(config.hydra.sweep.dir), finished)

    def _compare(self, config: DictConfig) -> int:
        """Returns how many runs there are to compare."""
        statistics = Statistics(**{key: config.statistics[key] for key in config.statistics})
        settings, output_path = self._open_store(config)
        sweep = cli.sweep_name_of(config.hydra.sweep.dir)
        runs = study.runs_of_sweep(sweep)
        settings, _ = gathered(runs, settings, output_path)
        if settings.is_server:
            runs = study.runs_of_sweep(sweep)  # As they are there.
        runs = _finished(runs)
        if not runs.empty:
            compare(runs, statistics, settings, output_path)
        return len(runs)

    def _end_open_runs(self, config: DictConfig, reason: str) -> None:
        self._open_store(config)
        resume.end_open_runs(study.runs_of_sweep(cli.sweep_name_of(config.hydra.sweep.dir)), reason)

    def _open_store(self, config: DictConfig) -> tuple[Tracking, Path]:
        """Opens the store where the runs are recorded first."""
        settings = _tracking(config)
        output_path = absolute(config.output_dir)
        store.open_store(settings.recorded, output_path)
        return settings, output_path


def _tracking(config: DictConfig) -> Tracking:
    return Tracking(**{key: config.tracking[key] for key in config.tracking})


def compare(runs: pd.DataFrame, statistics: Statistics, settings: Tracking, output_path: Path) -> None:
    """Compares, prints the answer with its tables, writes and records the report, prepares the dashboard's views.

    Args:
        runs: Finished runs of one sweep, or of the newest of a study in each experiment, see `study.newest_runs`.
        statistics: How sure a verdict has to be.
        settings: Where the runs are recorded.
        output_path: The report goes to `studies/SWEEP/` in it.

    Raises:
        ConfigError: The sweep's name would lead elsewhere.
    """
    address = store.server_address(settings)
    experiments = dict(zip(runs["run_id"], runs["experiment_id"], strict=True))
    sweep = runs["sweep"].iloc[0]
    require_plain_name("sweep", sweep)  # On a shared server, anybody can write tags.
    directory = output_path / "studies" / sweep
    text = _report(
        study.with_answers(runs),
        statistics,
        directory,
        lambda run_id: views.run_link(address, experiments[run_id], run_id),
    )
    for experiment_id, of_experiment in runs.groupby("experiment_id", sort=False):
        study.record_report(str(experiment_id), of_experiment, text, directory)
    cli.console().print(how_to_look(study.publish_views(runs), settings, output_path), soft_wrap=True)


def _report(runs: pd.DataFrame, statistics: Statistics, directory: Path, link: Callable[[str], str] | None) -> str:
    """Prints the comparison and writes it into a directory: a web page, Markdown, and the table that it is made of.

    Returns:
        The Markdown.
    """
    groups = analyse(runs, statistics)
    console = cli.console()
    for group in groups:
        console.print()
        console.print(report.answer(group, statistics))
        console.print(terminal(report.arms_table(group, statistics), group.title))
        if group.comparisons:
            console.print(terminal(report.comparisons_table(group, statistics, every_condition=False), ""))
        for table in report.ways_tables(group, statistics)[:1]:
            console.print(terminal(table, "How to run the trained models at other sizes"))
        console.print(report.control_text(group, statistics))
        for line in group.left_out:
            console.print(f"Left out: {line}.")
    title = study.common(runs, "params.question") or study.QUESTION
    text = report.markdown_page(groups, statistics)
    pages = {"report.html": report.web_page(title, groups, statistics, link), "report.md": text}
    for name, page in pages.items():
        with storage.whole(directory / name) as beside:
            beside.write_text(page)
    snapshot.write(runs, directory / "runs.parquet")
    for group in groups:
        for name, figure in report.figures(group, statistics).items():
            with storage.whole(directory / f"{group.file_name}-{name}.png") as beside:
                figure.savefig(beside)
    console.print(f"Report: {directory / 'report.html'}", soft_wrap=True)
    return text


def gathered(runs: pd.DataFrame, settings: Tracking, output_path: Path) -> tuple[Tracking, dict[str, str]]:
    """Brings runs to the tracking server, if there is one, and points MLflow at where all of them can be read.

    Args:
        runs: Of the store in `output_path`, that MLflow points at.
        settings: Where the runs are to be recorded.
        output_path: The `output_dir`.

    Returns:
        Where all can be read: the server, or the store in `output_path` if the server has not taken all of them; then
        the command ends in failure. And the ids of the copies by those of the runs.
    """
    if settings.uri is None or not settings.is_server:
        return settings, {}
    copies = delivery.deliver_all(settings.uri, study.entities(runs), output_path)
    if len(copies) < len(runs):
        cli.fail_at_end(
            f"tracking.uri={settings.uri}: the MLflow server has {len(copies)} of these {len(runs)} runs; all of them "
            "are in output_dir. Once the server answers:\n  " + sync_command(settings, output_path)
        )
        return settings.recorded, copies
    store.open_store(settings, output_path)
    return settings, copies


def sync_command(settings: Tracking, output_path: Path) -> str:
    """What to type to bring runs to a tracking server that did not answer."""
    return shlex.join(["python", "-m", "pipeline.sync", f"tracking.uri={settings.uri}", f"output_dir={output_path}"])


def show_run(run_id: str, settings: Tracking, output_path: Path) -> None:
    """Prepares the dashboard's view of all runs of an experiment, and prints the links of it and of one run's page."""
    run = study.run(run_id)
    page = views.run_link(store.server_address(settings), run["experiment_id"].iloc[0], run_id)
    console = cli.console()
    console.print(how_to_look(study.publish_views(run), settings, output_path), soft_wrap=True)
    console.print(f"This run: {page}", soft_wrap=True)


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] == "FINISHED"] if len(runs) else runs


def how_to_look(prepared: list[study.View], settings: Tracking, output_path: Path) -> str:
    """What to type, and which address then opens each view."""
    address = store.server_address(settings)
    links = [f"{view.experiment}, {view.name}\n  {view.link(address)}" for view in prepared]
    if settings.uri is not None:
        return "\n".join(["Compare in the dashboard:", *links])
    # The Makefile serves the clone's own outputs/ only.
    served = output_path == PROJECT_ROOT / "outputs" and (PROJECT_ROOT / "Makefile").is_file()
    command = "make dashboard" if served else f"python -m pipeline.dashboard output_dir={shlex.quote(str(output_path))}"
    return "\n".join([f"Compare in the dashboard: {command}, then open", *links])


@cli.command("compare")
def main(composed: DictConfig) -> None:
    """Composes, finds the runs, and shows them."""
    config = to_typed(composed, Comparison)
    if config.snapshot is not None:
        path = absolute(config.snapshot)
        _report(snapshot.read(path), config.statistics, config.output_path / "studies" / path.stem, link=None)
        return
    assert config.study is not None
    store.open_store(config.tracking, config.output_path, create=False)
    runs = study.newest_runs(config.study) if config.sweep is None else study.runs_of_sweep(config.sweep)
    if runs.empty:
        known = study.studies()
        raise ConfigError(
            "study" if config.sweep is None else "sweep",
            config.study if config.sweep is None else config.sweep,
            "no run was recorded under this name",
            f"Recorded studies: {', '.join(known) or 'none'}. {suggestion(config.study, known)}".strip(),
        )
    finished = _finished(runs)
    if finished.empty:
        raise UserError(f"study={config.study}: none of its {len(runs)} runs has finished yet.")
    compare(finished, config.statistics, config.tracking, config.output_path)


if __name__ == "__main__":
    main()
