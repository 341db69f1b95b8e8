"""The last Dense layer is fitted again, on training images of other sizes."""

from __future__ import annotations

from pipeline.other_sizes.ways.base import RefitWay

FIXRES = "Touvron, Vedaldi, Douze, Jégou, Fixing the train-test resolution discrepancy, 2019, section 3.3"


class RefitDense(RefitWay):
    name = "refit_dense"
    rule = "the last Dense layer is fitted again on training images of the one size; all other weights stay"
    source = f"{FIXRES}; here by logistic regression"
    color, marker, line = "#F0E442", "*", "-"
    for_all_sizes = False


class RefitDenseAll(RefitWay):
    name = "refit_dense_all"
    rule = "as refit_dense, but one Dense layer for all sizes, fitted on training images of all of them"
    source = f"{FIXRES}, for several sizes at once"
    color, marker, line = "#882255", "h", "--"
    for_all_sizes = True
