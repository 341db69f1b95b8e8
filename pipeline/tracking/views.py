"""Prepared views of MLflow's dashboard: what their links open, and the format that MLflow keeps them in.

That format is documented nowhere; all that this program knows of it is here, found by trying MLflow 3.17, and
tests/program/test_browser.py opens the views in a browser. A view is the experiment tag
`mlflow.sharedViewState.<key>`. Its value is JSON with name, times and the state of the runs page, which is JSON again.
A link applies it only if its query holds none of the state's own settings, such as `searchFilter`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pipeline.common.condition import Mode
from pipeline.common.names import Metric, Param, size_accuracy

VIEW_TAG = "mlflow.sharedViewState."
MAX_DESCRIPTION = 8000
"""Characters after which MLflow cuts a run's tag without a word."""
TABLE_METRICS = (
    *(Metric.TEST_ACCURACY, Metric.TEST_BALANCED_ACCURACY, Metric.TEST_CALIBRATION_ERROR),
    Metric.PARAMETERS,
)
"""Columns of the table of runs."""
HIDDEN_SECTION = "everything else"
_ALL_RUNS = 1000
"""More runs than a chart should show: MLflow's own limit of ten is about bars it picks itself."""


def view_tag(key: str, name: str, state: dict[str, Any]) -> tuple[str, str]:
    """The experiment tag, name and value, that makes a view; MLflow lists it under *Views* as `name`."""
    now = int(time.time() * 1000)
    envelope = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    return VIEW_TAG + key, json.dumps(envelope)


def view_names(tags: dict[str, str]) -> dict[str, tuple[str, int]]:
    """Of the views in an experiment's tags: key to name and time of the last change, in ms since 1970.

    Those of another form, which another version of MLflow or anybody else has written, are left out.
    """
    found = {}
    for tag, value in tags.items():
        if tag.startswith(VIEW_TAG):
            with suppress(ValueError, KeyError, TypeError, RecursionError, OverflowError):
                envelope = json.loads(value)
                found[tag.removeprefix(VIEW_TAG)] = (str(envelope["name"]), int(envelope["updatedAt"]))
    return found


def view_link(server: str, experiment_id: str, key: str, table: bool = False) -> str:
    """Address that opens a view with no click: its charts, or its table.

    Args:
        server: Where MLflow answers; an empty string for a link inside the dashboard.
        experiment_id: Of the experiment that holds the view.
        key: The view's key.
        table: Open the table of runs instead of the charts.
    """
    mode = "" if table else "&compareRunsMode=CHART"
    query = f"workflowType=machine_learning{mode}&viewStateShareKey={key}"
    return f"{server}{'/' if server else ''}#/experiments/{experiment_id}/runs?{query}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def artifact_link(server: str, experiment_id: str, run_id: str, path: str) -> str:
    """Address of the page that shows one of a run's files."""
    slash = "/" if server else ""
    return f"{server}{slash}#/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}?workflowType=machine_learning"


def shortened(description: str, whole: str) -> str:
    """A description that MLflow does not cut: whole lines, as many as there is room for, and the file with the rest."""
    if len(description) <= MAX_DESCRIPTION:
        return description
    ending = f"\n\nThe rest is in {whole}."
    return description[: MAX_DESCRIPTION - len(ending)].rpartition("\n")[0] + ending


def artifact_address(run_id: str, path: str) -> str:
    """Address of a run's file, relative to the dashboard's pages, for a picture in a description."""
    return f"get-artifact?path={path}&run_uuid={run_id}"


def comparison_view(
    run_filter: str, verdict_tags: Sequence[str], ways: Sequence[str], told_by: Sequence[str], average: bool = False
) -> dict[str, Any]:
    """State of the runs page for comparing arms.

    Args:
        run_filter: Which runs, as MLflow's search box takes it.
        verdict_tags: Names of the tags that say what happens at each size; a column each.
        ways: Ways to run the trained models at other sizes whose accuracies were measured.
        told_by: Params whose values tell the arms apart.
        average: Whether the charts show the mean of each arm, instead of every run.
    """
    shown = [
        (
            "by image height / px",
            [
                *(
                    _by_pixels([size_accuracy(mode)], f"test accuracy by image height / px, {mode.label}")
                    for mode in Mode
                ),
                _by_pixels([Metric.SEEN_FRACTION], "share of the feature map that is seen, by image height / px"),
            ],
        ),
        (
            "accuracy and cost",
            [
                _bars(Metric.TEST_ACCURACY, "test accuracy at the training size"),
                _bars(Metric.PARAMETERS, "parameters"),
                _scatter(Metric.PARAMETERS, Metric.TEST_ACCURACY, "parameters and test accuracy"),
            ],
        ),
        (
            "learning curves",
            [
                _by_epoch(Metric.VALIDATION_ACCURACY, "validation accuracy by epoch"),
                _by_epoch(Metric.TRAIN_ACCURACY, "training accuracy by epoch"),
                _by_epoch(Metric.VALIDATION_LOSS, "validation loss by epoch"),
            ],
        ),
    ]
    if ways:
        by_way = [
            _by_pixels(
                [size_accuracy(mode, way) for way in ways],
                f"test accuracy by image height / px, {mode.label}, each way to run the models",
            )
            for mode in Mode
        ]
        shown.insert(2, ("ways to other sizes", by_way))
    # MLflow adds a chart for every metric that has none.
    has_chart = {metric for _, charts in shown for chart in charts for metric in chart.get("selectedMetricKeys", ())}
    rest = [_bars(metric, metric) for metric in Metric if metric not in has_chart]
    sections = [*shown, (HIDDEN_SECTION, rest)]
    return {
        "searchFilter": run_filter,
        "orderByKey": f"params.`{told_by[0]}`",  # Runs of one arm next to each other, in the list and in bars.
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"params.`{name}`" for name in dict.fromkeys((*told_by, Param.HEAD, Param.SEED))),
            *(f"metrics.`{name}`" for name in TABLE_METRICS),
            *(f"tags.`{name}`" for name in verdict_tags),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": name} for name in told_by],
        }
        if average
        else None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # Keeps the sections in this order instead of by name.
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name != HIDDEN_SECTION, "isReordered": True} for name, _ in sections
        ],
        "compareRunCharts": [
            {**chart, "uuid": f"{name}-{index}", "metricSectionId": name}
            for name, charts in sections
            for index, chart in enumerate(charts)
        ],
    }


def _chart(kind: str, title: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "displayName": title,
        "runsCountToCompare": _ALL_RUNS,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def _line(metrics: Sequence[str], title: str, **axis: Any) -> dict[str, Any]:
    return _chart(
        "LINE",
        title,
        metricKey=metrics[0],
        selectedMetricKeys=list(metrics),
        lineSmoothness=0,
        xAxisScaleType="linear",
        scaleType="linear",
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        displayPoints=True,
        ignoreOutliers=False,
        useGlobalXaxisKey=False,
        useGlobalLineSmoothing=False,
        **axis,
    )


def _by_pixels(metrics: Sequence[str], title: str) -> dict[str, Any]:
    return _line(metrics, title, xAxisKey="metric", selectedXAxisMetricKey=Metric.SIZE_PX)


def _by_epoch(metric: str, title: str) -> dict[str, Any]:
    return _line([metric], title, xAxisKey="step", selectedXAxisMetricKey="")


def _bars(metric: str, title: str) -> dict[str, Any]:
    return _chart("BAR", title, metricKey=metric, selectedMetricKeys=[metric])


def _scatter(x_metric: str, y_metric: str, title: str) -> dict[str, Any]:
    axes = {axis: {"key": key, "type": "METRIC"} for axis, key in (("xaxis", x_metric), ("yaxis", y_metric))}
    return _chart("SCATTER", title, **axes)
