"""A study's comparison for people: the answer in words, tables, figures, a web page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.analysis import MODES, TEST, Arm, Comparison, Group, Statistics, condition_of
from pipeline.heads import Verdict
from pipeline.inference import Outcome
from pipeline.size_transfer import WAY_RULES
from pipeline.tables import Table, accuracy_text, interval_text, markdown, points_text
from pipeline.verdicts import LEGEND, phrase, summarize
from pipeline.ways_report import best_ways_table, ways_figure, ways_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALT_TEXTS = {
    "differences": "Differences of test accuracy between arms, with intervals",
    "sizes": "Test accuracy by image size, with intervals",
    "cost": "Test accuracy over the number of parameters",
    "ways": "Test accuracy by image size for each way to run the trained models, with intervals",
}


def answer(group: Group, statistics: Statistics) -> str:
    """The answer in words: which arm is more accurate at the training size, and what each does at other sizes."""
    sentences = [
        f"The control failed: {control.first} and {control.second} are the same function at {group.trained_at}, and "
        f"still differ by {points_text(control.difference.mean)} (p = {control.p_value:.2g}). Nothing below can be "
        "trusted."
        for control in group.controls
        if not control.holds
    ]
    sentences.append(_accuracy_sentence(group, statistics))
    does = [f"{arm.name} {phrase(dict(arm.verdicts), group.native)}" for arm in group.arms]
    sentences.append(f"Trained at {group.trained_at}, {'; '.join(does)}.")
    return " ".join(sentences)


def _accuracy_sentence(group: Group, statistics: Statistics) -> str:
    compared = [found for found in group.comparisons if found.condition == TEST]
    if not compared:
        return f"At {group.trained_at} nothing can be said: two arms with two seeds in common are the least."
    best = max(group.arms, key=lambda arm: arm.accuracy[TEST].mean)
    said: dict[Outcome, list[str]] = {Outcome.A_BETTER: [], Outcome.EQUIVALENT: [], Outcome.UNDECIDED: []}
    for found in compared:
        if best.name not in (found.first, found.second):
            continue
        other = found.second if found.first == best.name else found.first
        outcome = Outcome.A_BETTER if found.outcome is Outcome.B_BETTER else found.outcome
        low, high = sorted(map(abs, found.difference.interval(statistics.confidence)))
        interval = f"{points_text(abs(found.difference.mean))}, {100 * low:.2f} to {100 * high:.2f}"
        said[outcome].append(f"{other} ({interval})" if outcome is Outcome.A_BETTER else other)
    parts = []
    if said[Outcome.A_BETTER]:
        parts.append(f"is more accurate than {_list(said[Outcome.A_BETTER])}")
    if said[Outcome.EQUIVALENT]:
        parts.append(f"is as accurate as {_list(said[Outcome.EQUIVALENT])} to within {points_text(statistics.margin)}")
    if said[Outcome.UNDECIDED]:
        parts.append(f"has the highest mean, undecided against {_list(said[Outcome.UNDECIDED])}")
    return f"At {group.trained_at}, {best.name} {_list(parts)}."


def arms_table(group: Group, statistics: Statistics) -> Table:
    """A row an arm: accuracy with its interval, costs, what happens at other image sizes."""
    front = pareto_front(group) if group.comparisons else set()
    rows = []
    for arm in group.arms:
        below = {px: verdict for px, verdict in arm.verdicts.items() if px < group.native}
        above = {px: verdict for px, verdict in arm.verdicts.items() if px > group.native}
        rows.append(
            (
                arm.name,
                str(len(arm.seeds)),
                _with_interval(arm, TEST, statistics.confidence),
                f"{arm.mean('metrics.params/total'):,.0f}" + (" *" if arm.name in front else ""),
                f"{arm.mean('metrics.params/head'):,.0f}",
                f"{arm.mean('metrics.cost/flops') / 1e6:.2f}",
                f"{arm.mean('metrics.cost/memory_bytes') / 2**20:.2f}",
                f"{arm.runs['metrics.cost/ms_per_image'].median():.2f}",
                summarize(below),
                summarize(above),
            )
        )
    return Table(
        (
            "arm",
            ">seeds",
            ">test accuracy",
            ">parameters",
            ">in the head",
            ">MFLOP",
            ">MiB",
            ">ms",
            f"below {group.native} px",
            f"above {group.native} px",
        ),
        tuple(rows),
        f"Mean over the seeds [{statistics.confidence:.0%} interval]. MFLOP, MiB (weights and what is alive at once) "
        "and ms are those of one image. * On the Pareto front of accuracy and parameters.",
    )


def sizes_table(group: Group, statistics: Statistics) -> Table:
    """A row for each image size and way of making it: what each arm does there, and its accuracy with its interval."""
    rows = []
    for mode in MODES:
        for px in sorted({px for arm in group.arms for px in arm.verdicts} - {group.test_height}):
            condition = condition_of(mode, px, group.test_height)
            cells = []
            for arm in group.arms:
                verdict = arm.verdicts[px].value if px in arm.verdicts else "-"
                accurate = (
                    f" {_with_interval(arm, condition, statistics.confidence)}" if condition in arm.accuracy else ""
                )
                cells.append(verdict + accurate)
            rows.append((_condition_text(condition, group), *cells))
    return Table(
        ("images", *(arm.name for arm in group.arms)),
        tuple(rows),
        f"What each arm, trained at {group.trained_at}, does with images of another size, and its test accuracy "
        f"[{statistics.confidence:.0%} interval].",
    )


def comparisons_table(group: Group, statistics: Statistics, every_condition: bool) -> Table:
    """A row for each pair of arms, at the training size or under every condition."""
    rows = []
    for found in group.comparisons:
        if not every_condition and found.condition != TEST:
            continue
        rows.append(
            (
                found.first,
                found.second,
                _condition_text(found.condition, group),
                interval_text(found.difference, statistics.confidence),
                f"{found.difference.probability_above_zero():.3f}",
                verdict_text(found, statistics),
                f"{found.p_value:.2g}",
            )
        )
    return Table(
        ("A", "B", "images", ">A − B in points", ">P(A > B)", "verdict", ">p"),
        tuple(rows),
        f"Paired over seeds and test images. Points are hundredths of accuracy, [{statistics.confidence:.0%} interval] "
        f"over other seeds and other images; δ = {points_text(statistics.margin)}; p after Holm's correction "
        "for all comparisons of the study.",
    )


def verdict_text(found: Comparison, statistics: Statistics) -> str:
    """The verdict in words."""
    if found.outcome in (Outcome.A_BETTER, Outcome.B_BETTER):
        better = found.first if found.outcome is Outcome.A_BETTER else found.second
        return f"{better} better by more than {points_text(statistics.margin)}"
    if found.outcome is Outcome.EQUIVALENT:
        return f"equivalent within {points_text(statistics.margin)}"
    if found.more_seeds is None:
        return "undecided; more seeds alone would not settle it"
    return f"undecided; about {found.more_seeds} more seeds would settle it"


def control_text(group: Group, statistics: Statistics) -> str:
    """What the A/A control says."""
    if not group.controls:
        return "No A/A control: the study has no two arms that are the same function at the training size."
    texts = []
    for control in group.controls:
        ends = "holds, and this is the noise of the study" if control.holds else "FAILED; trust nothing here"
        difference = interval_text(control.difference, statistics.confidence)
        texts.append(
            f"{control.first} and {control.second} are the same function at {group.trained_at}. Their accuracies "
            f"differ by {difference} points, p = {control.p_value:.2g}: the control {ends}."
        )
    return " ".join(texts)


def pareto_front(group: Group) -> set[str]:
    """Names of the arms than which no other is better in accuracy or in parameters without being worse in the other.

    Between arms with equally many parameters, a verdict has to say that one is more accurate; a mean does not.
    """
    better = {
        (found.first, found.second) if found.outcome is Outcome.A_BETTER else (found.second, found.first)
        for found in group.comparisons
        if found.condition == TEST and found.outcome in (Outcome.A_BETTER, Outcome.B_BETTER)
    }

    def dominates(other: Arm, arm: Arm) -> bool:
        saved = arm.mean("metrics.params/total") - other.mean("metrics.params/total")
        gained = other.mean("metrics.test/accuracy") - arm.mean("metrics.test/accuracy")
        return (saved > 0 and gained >= 0) or (saved >= 0 and (other.name, arm.name) in better)

    return {arm.name for arm in group.arms if not any(dominates(other, arm) for other in group.arms)}


def ways_tables(group: Group, statistics: Statistics) -> list[Table]:
    """What the ways to run the trained models at other sizes give; none without other ways or with a single seed."""
    if not any(arm.ways and arm.accuracy for arm in group.arms):
        return []
    by_mode = [ways_table(group, statistics, mode) for mode in MODES]
    return [best_ways_table(group, statistics), *by_mode]


def markdown_page(groups: Sequence[Group], statistics: Statistics) -> str:
    """Answers, tables and controls in Markdown, for a README or a description."""
    parts = []
    for group in groups:
        parts += [f"**{answer(group, statistics)}**", markdown(arms_table(group, statistics)).strip()]
        if group.comparisons:
            parts.append(markdown(comparisons_table(group, statistics, every_condition=True)).strip())
            parts.append(markdown(sizes_table(group, statistics)).strip())
            parts += [markdown(table).strip() for table in ways_tables(group, statistics)]
        parts += [control_text(group, statistics), *(f"Left out: {line}." for line in group.left_out)]
    return "\n\n".join(parts) + "\n"


def size_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy by image height in pixels with intervals, a line an arm, both ways of making the images.

    Lines have gaps where an arm refuses, and hollow points where it crops.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    figure.suptitle(group.title)
    axes = figure.subplots(1, 2, sharey=True)
    heights = sorted({px for arm in group.arms for px in arm.verdicts})
    for (mode, heading), axis in zip(MODES.items(), axes, strict=True):
        axis.axvline(group.native, color="0.85", zorder=0)
        for index, arm in enumerate(group.arms):
            conditions = [condition_of(mode, px, group.test_height) for px in heights]
            means, errors = arm.curve(conditions, statistics.confidence)
            style = {"marker": "osD^v"[index % 5], "color": arm.color, "linestyle": ("-", "--", ":", "-.")[index % 4]}
            axis.errorbar(
                heights,
                means,
                yerr=list(zip(*errors, strict=True)),
                capsize=3,
                markersize=8 - 1.5 * (index % 4),
                label=arm.name,
                **style,
            )
            cropped = [
                (px, mean)
                for px, mean in zip(heights, means, strict=True)
                if arm.verdicts.get(px) is Verdict.CROPS and not math.isnan(mean)
            ]
            if cropped:
                xs, ys = zip(*cropped, strict=True)
                axis.plot(xs, ys, style["marker"], color=arm.color, markerfacecolor="white", markersize=6, zorder=5)
        axis.set(title=heading, xlabel="image height / px", ylim=(0, 1), xticks=heights)
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(
        loc="lower right", fontsize="small", title="hollow: part of the image is ignored", title_fontsize="small"
    )
    return figure


def cost_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy with intervals over the number of parameters; the Pareto front is joined."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained", dpi=110)
    axis = figure.subplots()
    front = pareto_front(group)
    points = []
    for index, arm in enumerate(group.arms):
        found = arm.accuracy[TEST]
        low, high = found.interval(statistics.confidence)
        parameters = arm.mean("metrics.params/total")
        axis.errorbar(
            [parameters],
            [found.mean],
            yerr=[[found.mean - low], [high - found.mean]],
            color=arm.color,
            marker="osD^v"[index % 5],
            markersize=9 - 1.5 * (index % 4),
            capsize=4,
            linestyle="none",
            label=arm.name,
        )
        if arm.name in front:
            points.append((parameters, found.mean))
    axis.plot(*zip(*sorted(points), strict=True), color="0.6", linewidth=1, zorder=0, label="Pareto front")
    axis.set(xlabel="parameters", ylabel="test accuracy", title=group.title)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.15)
    axis.legend(fontsize="small")
    return figure


def difference_figure(group: Group, statistics: Statistics) -> Figure:
    """The differences at the training size with their intervals, and the band of −δ to δ within which none counts."""
    from matplotlib.figure import Figure

    compared = [found for found in group.comparisons if found.condition == TEST][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(compared)), layout="constrained", dpi=110)
    axis = figure.subplots()
    margin = 100 * statistics.margin
    axis.axvspan(-margin, margin, color="0.9", zorder=0, label=f"within δ = {points_text(statistics.margin)}")
    axis.axvline(0, color="0.6", linewidth=1, zorder=1)
    for index, found in enumerate(compared):
        low, high = found.difference.interval(statistics.confidence)
        middle = 100 * found.difference.mean
        axis.errorbar(
            [middle], [index], xerr=[[middle - 100 * low], [100 * high - middle]], color="black", marker="o", capsize=4
        )
    axis.set(
        xlabel=f"difference of test accuracy in points, {statistics.confidence:.0%} interval",
        yticks=range(len(compared)),
        yticklabels=[f"{found.first} − {found.second}" for found in compared],
        ylim=(-0.6, len(compared) - 0.4),
    )
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def web_page(title: str, groups: Sequence[Group], statistics: Statistics, link: Callable[[str], str] | None) -> str:
    """The report as one HTML file that needs no other.

    Args:
        title: What the study asks.
        groups: Of the study.
        statistics: With which they were compared.
        link: Address of a run's page, given its id; None where there is none.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    template = Environment(
        loader=PackageLoader("pipeline", "."), autoescape=select_autoescape(["jinja"], default=True)
    ).get_template("report.html.jinja")
    return template.render(
        title=title,
        groups=[
            {
                "title": group.title,
                "answer": answer(group, statistics),
                "failed": not all(control.holds for control in group.controls),
                "arms": arms_table(group, statistics),
                "control": control_text(group, statistics),
                "left_out": group.left_out,
                "comparisons": comparisons_table(group, statistics, every_condition=True),
                "sizes": sizes_table(group, statistics),
                "ways": ways_tables(group, statistics),
                "figures": [
                    {"source": _embedded(figure), "description": ALT_TEXTS[name]}
                    for name, figure in figures(group, statistics).items()
                ],
            }
            for group in groups
        ],
        method=method(statistics),
        rules=[f"{name}: {rule}." for name, rule in WAY_RULES.items()],
        legend=[line.replace("`", "") for line in LEGEND],
        runs=[row for group in groups for row in _run_rows(group, link)],
        footer=f"{sum(len(arm.seeds) for group in groups for arm in group.arms)} runs compared.",
    )


def figures(group: Group, statistics: Statistics) -> dict[str, Figure]:
    """The report's figures by a short name; none where nothing is compared."""
    if not group.comparisons:
        return {}
    found = {
        "differences": difference_figure(group, statistics),
        "sizes": size_figure(group, statistics),
        "cost": cost_figure(group, statistics),
    }
    if any(arm.ways for arm in group.arms):
        found["ways"] = ways_figure(group, statistics)
    return found


def method(statistics: Statistics) -> list[str]:
    """How the numbers came about, a paragraph each."""
    return [
        "Each arm is trained with each seed. A seed draws the validation images, the order of the batches and the "
        "initial weights, the same for all arms; digests of the split, of the first batch and of the backbone's "
        "initial weights are recorded, and only seeds for which they are equal in all arms are compared. All arms "
        "answer the same test images, which choose nothing.",
        "A difference is the mean over seeds and test images of (A right) − (B right). Its interval is about other "
        "seeds and other images: the two-level bootstrap (Owen 2007) gives its shape, scaled to the standard error of "
        "the two-way layout of seeds and images with Satterthwaite's degrees of freedom, because with few seeds the "
        f"bootstrap alone is too narrow (Hesterberg 2015). {statistics.resamples:,} resamples, "
        f"{statistics.confidence:.0%}.",
        f"A is better if the difference is above δ = {points_text(statistics.margin)}, two-sided; A and B are "
        "equivalent if it lies between −δ and δ (two one-sided tests, Schuirmann 1987); everything else is undecided. "
        "p values are corrected for all comparisons of the study (Holm 1979). The number of seeds that would settle a "
        "comparison supposes that mean and variances stay as they are.",
        "McNemar's test asks about one pair of trainings, not about two arms: its p value says that these two models "
        "differ on these images, and nothing about other seeds. It is never pooled.",
    ]


def _run_rows(group: Group, link: Callable[[str], str] | None) -> list[dict[str, str]]:
    first = group.arms[0].name
    against = {
        found.second: found.mcnemar for found in group.comparisons if found.condition == TEST and found.first == first
    }
    return [
        {
            "arm": arm.name,
            "seed": str(seed),
            "accuracy": f"{run['metrics.test/accuracy']:.4f}",
            "id": run["run_id"],
            "link": link(run["run_id"]) if link else "",
            "mcnemar": f"{against[arm.name][index]:.2g}" if arm.name in against else "",
        }
        for arm in group.arms
        for index, (seed, run) in enumerate(arm.runs.iterrows())
    ]


def _embedded(figure: Figure) -> str:
    """A figure as the address of itself."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"


def _with_interval(arm: Arm, condition: str, confidence: float) -> str:
    if condition not in arm.accuracy:
        return f"{arm.mean('metrics.test/accuracy'):.4f}"
    return accuracy_text(arm.accuracy[condition], confidence)


def _condition_text(condition: str, group: Group) -> str:
    if condition == TEST:
        return group.trained_at
    mode, _, height = condition.partition("_")
    return f"{int(height.removesuffix('px'))} px, {'resized' if mode == 'resize' else 'on a canvas'}"


def _list(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
