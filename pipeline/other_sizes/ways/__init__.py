"""Ways to run a trained model at image sizes that it was not built for.

Each class in a file here that has a `name` is one that `size_probe.ways` and `pipeline.convert way=NAME` offer.
"""

import sys

from pipeline.common.options import options_in
from pipeline.other_sizes.parts import Parts
from pipeline.other_sizes.ways.base import ImageWay, NamedWay, RefitWay, Way

WAYS: tuple[Way, ...] = tuple(
    # First those that are for every model.
    sorted(
        (option() for option in options_in(sys.modules[__name__], Way)),  # type: ignore[type-abstract]
        key=lambda way: not isinstance(way, ImageWay),
    )
)
"""All ways that keep the weights of a model."""
REFITS: tuple[RefitWay, ...] = tuple(option() for option in options_in(sys.modules[__name__], RefitWay))
"""All that fit some of them again, on training images."""
ALL_WAYS: tuple[NamedWay, ...] = (*WAYS, *REFITS)


def ways_for(parts: Parts | None) -> list[Way]:
    """The ways in which a model can be run with its weights; None is one that could not be taken apart."""
    return [way for way in WAYS if way.is_for(parts)]
