"""Networks that are there already, with or without trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backbones.base import Backbone
from pipeline.errors import ConfigError, first_line, require

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class KerasApplication(Backbone):
    """Any network of `keras.applications`, without its top.

    The network's own `preprocess_input` comes first, so that weights from a file meet the pixels that they were
    trained on; grayscale images are repeated to three channels for it. EfficientNet is the exception: Keras builds it
    with another scaling layer for the weights that it downloads, so take those as a whole model, with `from_model`.

    Attributes:
        application: Name in `keras.applications`, such as `MobileNetV2`.
        weights: Path of a weights file made without the top; null starts from random weights.
    """

    name: str = "keras_application"
    application: str = "MobileNetV2"
    weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.file is None or self.file.is_file(),
            "backbone.weights",
            self.weights,
            "must be null or the path of a weights file",
            "Use backbone.weights=null for random weights.",
        )

    @property
    def file(self) -> Path | None:
        return None if self.weights is None else Path(self.weights).expanduser()

    def features(self, images: KerasTensor) -> KerasTensor:
        import sys

        import keras

        network = getattr(keras.applications, self.application, None)
        if not isinstance(network, type(keras.applications.MobileNetV2)):
            names = [name for name in dir(keras.applications) if name[0].isupper()]
            raise ConfigError(
                "backbone.application",
                self.application,
                "is not a network of keras.applications",
                f"Use one of {', '.join(names)}.",
            )
        x = keras.layers.Rescaling(1.0)(images)
        if x.shape[-1] == 1:
            x = keras.layers.Concatenate()([x, x, x])
        x = sys.modules[network.__module__].preprocess_input(x)
        weights = None if self.file is None else str(self.file)
        try:
            extractor = network(include_top=False, weights=weights, input_shape=(None, None, x.shape[-1]))
        except (ValueError, OSError) as error:
            if weights is None:
                raise
            raise ConfigError(
                "backbone.weights",
                self.weights,
                f"does not fit {self.application}: {first_line(error)}",
                "Use a weights file of this network without its top.",
            ) from error
        return extractor(x)
