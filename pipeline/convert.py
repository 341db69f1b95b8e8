"""A trained model made for images of any size, or for another runtime: `python -m pipeline.convert model=my.keras`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.cli.loading import loading
from pipeline.cli.terminal import console, import_tensorflow
from pipeline.config import ConvertConfig, absolute, to_typed
from pipeline.other_sizes.settings import Format
from pipeline.other_sizes.ways import REFITS


def convert(config: ConvertConfig) -> Path | None:
    """Converts or exports, proves that the answers stay the same, and writes the model.

    A way that fits weights again changes the answers; what it changes is measured and said.

    Returns:
        The file or directory; None if neither way nor format was chosen, and only the ways that there are were printed.

    Raises:
        UserError: The model cannot be loaded, taken apart or written, the way is not for it, or the answers differ.
    """
    from pipeline.other_sizes.convert import Conversion
    from pipeline.other_sizes.export import check_installed
    from pipeline.other_sizes.refit_convert import refit_and_write
    from pipeline.tracking.models import load_source

    def say(line: str) -> None:
        console().print(line, soft_wrap=True)

    check_installed(config.format)
    source = load_source(config.model, config.tracking, config.output_path)
    conversion = Conversion(source.model, config.model, config.image_size, source.image_size)
    for line in conversion.findings:
        say(line)
    keras_file = config.format is Format.keras
    if config.way is None and keras_file:
        for name, way in conversion.ways.items():
            say(f"  way={name}: {way.rule}")
        for fitting in REFITS:
            say(f"  way={fitting.name}, with images=DIR and sizes=[…]: {fitting.rule}")
        return None
    refit = next((way for way in REFITS if way.name == config.way), None)
    if refit is not None:
        assert config.sizes and config.images  # The settings were checked.
        say(f"{refit.name}: {refit.rule}")
        output = absolute(config.output or f"{source.name}-{refit.name}.keras")
        for line in refit_and_write(source.model, conversion.size, refit, config.sizes, config.images, output):
            say(line)
        say(f"Written: {output}")
        return output
    chosen = None if config.way is None else conversion.way(config.way)
    if chosen is not None:
        say(f"{chosen.name}: {chosen.rule}")
    name = "-".join([source.name, *([chosen.name] if chosen else [])]) + (config.format.value or "-saved_model")
    output = absolute(config.output or name)
    if chosen is not None and keras_file:
        proofs = conversion.write(chosen, output, config.tolerance, config.images)
    else:
        proofs = conversion.export(chosen, output, config.format, config.tolerance, config.images)
    for proof in proofs:
        say(proof)
    say(f"Written: {output}")
    return output


@command("convert")
def main(composed: DictConfig) -> None:
    """Composes, checks and converts."""
    config = to_typed(composed, ConvertConfig)
    with loading():
        import_tensorflow()
    convert(config)


if __name__ == "__main__":
    main()
