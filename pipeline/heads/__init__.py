"""The heads: what turns a feature map (N, H, W, C) into logits (N, K).

Each class in a file here that has a `name` is one that `head=NAME` offers; it needs nothing else but its file in
`conf/head/`.
"""

import sys

from pipeline.common.options import options_in
from pipeline.heads.base import Head

HEADS: tuple[type[Head], ...] = options_in(sys.modules[__name__], Head)  # type: ignore[type-abstract]
"""The heads that `head=NAME` offers."""
