"""What is known of a dataset before any image is read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.errors import excerpt, printable, require
from pipeline.common.settings import MAX_NAME, is_short
from pipeline.common.size import Size, TrainedSize


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset before any image is read.

    Attributes:
        name: TFDS name.
        version: TFDS version.
        image_shape: (H, W, C) that the model is trained on, after any resizing; with natural sizes, the reference at
            which cost is stated and around which other sizes are probed.
        class_names: Names of the K classes, by label.
        natural: Whether the images keep their natural sizes.

    Raises:
        ConfigError: A class has a name that no report could be made with.
    """

    name: str
    version: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    natural: bool = False

    def __post_init__(self) -> None:
        # Here, and not after the training: the names are recorded, and read back for the comparison.
        for name in self.class_names:
            holds = name != "" and is_short(name) and printable(name) == name
            rule = f"has a class '{excerpt(name)}'; the name of a class must have 1 to {MAX_NAME} bytes, all printable"
            require(holds, "dataset", self.name, rule, "Rename the class.")

    @property
    def image_size(self) -> Size:
        return self.image_shape[:2]

    @property
    def trained_size(self) -> TrainedSize:
        return TrainedSize(self.image_size, self.natural)

    @property
    def channels(self) -> int:
        return self.image_shape[2]

    @property
    def classes(self) -> int:
        return len(self.class_names)
