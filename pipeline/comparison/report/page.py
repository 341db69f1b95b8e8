"""A report as one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.common.condition import TEST, Mode
from pipeline.common.names import Metric
from pipeline.comparison.analysis import Group
from pipeline.comparison.report.drawing import inline_svg
from pipeline.comparison.report.facts import facts
from pipeline.comparison.report.figures import finding, size_figure
from pipeline.comparison.report.method import method, repeats
from pipeline.comparison.report.report import Report
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import LEGEND


def web_page(report: Report, drawn: Sequence[Mapping[str, Figure]], link: Callable[[str], str] | None) -> str:
    """The report as HTML.

    Args:
        report: What it says.
        drawn: The figures of each section, see `figures`.
        link: Address of a run's page, given its id; None where there is none.
    """
    template = Environment(
        loader=PackageLoader("pipeline.comparison.report", "."),
        autoescape=select_autoescape(["jinja"], default=True),
    ).get_template("report.html.jinja")
    groups = [section.group for section in report.sections]
    return template.render(
        title=report.title,
        answer=report.answer,
        failed=report.control_failed,
        warnings=report.warnings,
        contrasts=report.contrasts,
        limits=report.limits,
        sections=[
            {"section": section, "pictures": _pictures(section.group, figures, report.statistics, index)}
            for index, (section, figures) in enumerate(zip(report.sections, drawn, strict=True))
        ],
        facts=facts(groups),
        command=repeats(groups),
        method=method(report.statistics),
        rules=[f"{name}: {way.rule}." for name, way in report.ways.items()],
        legend=[*(line.replace("`", "") for line in LEGEND), *(f"{mode.short}: {mode.heading}" for mode in Mode)],
        runs=[row for group in groups for row in _run_rows(group, link)],
        footer=f"{sum(len(arm.seeds) for group in groups for arm in group.arms)} runs compared.",
    )


def _pictures(
    group: Group, drawn: Mapping[str, Figure], statistics: Statistics, section: int
) -> dict[str, list[Markup]]:
    """The figures of a section as elements of the page; the one of image sizes in two, which a phone has room for."""
    figures = {name: [figure] for name, figure in drawn.items()}
    if "sizes" in figures:
        figures["sizes"] = [size_figure(group, statistics, [mode]) for mode in Mode]
    return {
        name: [
            inline_svg(figure, f"s{section}-{name}-{index}", _description(name, index, group, statistics))
            for index, figure in enumerate(of_name)
        ]
        for name, of_name in figures.items()
    }


def _description(name: str, index: int, group: Group, statistics: Statistics) -> str:
    """What a figure shows; of those of image sizes, in which mode."""
    text = finding(name, group, statistics)
    return f"{list(Mode)[index].heading}: {text}" if name == "sizes" else text


def _run_rows(group: Group, link: Callable[[str], str] | None) -> list[dict[str, str]]:
    first = group.arms[0].name
    against = {
        found.second: found.mcnemar for found in group.comparisons if found.condition == TEST and found.first == first
    }
    return [
        {
            "arm": arm.name,
            "seed": str(seed),
            "accuracy": f"{run[Metric.TEST_ACCURACY.column]:.4f}",
            "id": run["run_id"],
            "link": link(run["run_id"]) if link else "",
            "mcnemar": f"{against[arm.name][index]:.2g}" if arm.name in against else "",
        }
        for arm in group.arms
        for index, (seed, run) in enumerate(arm.runs.iterrows())
    ]
