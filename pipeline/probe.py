"""A trained model judged at other image sizes: `python -m pipeline.probe model=my.keras images=DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pipeline.cli.arguments import to_type
from pipeline.cli.command import command
from pipeline.cli.loading import loading
from pipeline.cli.terminal import console, import_tensorflow
from pipeline.common.condition import AS_IS, Mode, way_text
from pipeline.common.names import Param
from pipeline.common.size import Size, TrainedSize, size_text
from pipeline.common.table import Table, for_terminal
from pipeline.config import ProbeConfig, to_typed

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.other_sizes.probe import ProbedSize
    from pipeline.other_sizes.probe_best import Best


def probe(config: ProbeConfig) -> Path:
    """Runs a trained model at other sizes; prints, writes and records what it does there.

    Returns:
        The directory that holds the table and the picture.

    Raises:
        UserError: The model or the images cannot be read, or they do not belong together.
    """
    from pipeline.data.labelled import Taker, open_dataset, open_folder
    from pipeline.other_sizes.convert import Conversion, fixed_size
    from pipeline.other_sizes.probe import Pixels, Probe, outputs_of
    from pipeline.other_sizes.probe_best import best_ways
    from pipeline.study.links import dashboard_command
    from pipeline.tracking.models import load_source
    from pipeline.tracking.probe_figure import probe_figure
    from pipeline.tracking.probe_record import probe_table, record_probe, write_probe
    from pipeline.tracking.store import open_store

    def say(line: str) -> None:
        console().print(line, soft_wrap=True)

    source = load_source(config.model, config.tracking, config.output_path)
    conversion = Conversion(source.model, config.model, config.image_size, source.image_size)
    for line in conversion.findings:
        say(line)
    if fixed_size(source.model) is not None:
        say(
            f"It is built for {size_text(conversion.size)} px and refuses all else; what its weights would do in a "
            "model for other sizes is what the ways tell."
        )
    shape = (*conversion.size, source.model.input_shape[-1])
    taker = Taker(config.model, shape, outputs_of(conversion), source.class_names)
    if config.dataset is not None:
        images = open_dataset(config.dataset, taker, config.size_probe.max_images, config.output_path / "cache")
    else:
        assert config.images is not None  # The settings were checked.
        images = open_folder(config.images, taker, config.size_probe.max_images)
    open_store(config.tracking.recorded, config.output_path)  # Before what takes long.
    running = Probe(conversion, images, config.size_probe, Pixels(config.scale, config.offset))
    probed = running.sizes()
    best = best_ways(probed, conversion.size)
    title = f"{config.model} on {len(images.labels):,} images of {images.name}"
    table = size_table(probed, running.names)
    terminal = console()
    terminal.print(for_terminal(table, title, terminal.width))
    sentences = [best_sentence(one, conversion.size, _convert_command(config, one.way)) for one in best]
    for line in sentences:
        say(line)
    directory = config.output_path / "probes" / source.name
    figure = probe_figure(probed, running.names, conversion.size[0], title)
    write_probe(probe_table(probed, running.names), figure, directory)
    say(f"Written: {directory}")
    params = {"scale": config.scale, "offset": config.offset, Param.TEST_EXAMPLES: len(images.labels)}
    link = record_probe(
        config.tracking.experiment or images.name,
        config.model,
        {**params, Param.DATASET: images.name},
        TrainedSize(conversion.size),
        probed,
        running.names,
        directory,
        "\n\n".join([title, *sentences]),
        config.tracking,
        config.output_path,
    )
    say(f"Recorded: {link} (served by {dashboard_command(config.tracking.recorded, config.output_path)})")
    return directory


def size_table(probed: Sequence[ProbedSize], names: Sequence[str]) -> Table:
    """A row for each image size: what the model does there, and the accuracy of each way with its interval."""

    def cell(result: ProbedSize, way: str, mode: Mode) -> str:
        score = result.scores.get(way, {}).get(mode)
        return "-" if score is None else "{:.3f} [{:.3f}, {:.3f}]".format(score.accuracy, *score.interval)

    rows = [
        (
            size_text(result.size),
            size_text(result.map_size) if result.map_size else "-",
            result.verdict.value,
            "-" if result.seen_fraction is None else f"{result.seen_fraction:.0%}",
            f"{result.seen_pixels:.0%}",
            result.reason,
            *(cell(result, way, mode) for way in names for mode in Mode),
        )
        for result in probed
    ]
    accuracies = [f">{way_text(way)}, {mode.short}" for way in names for mode in Mode]
    return Table(
        ("image / px", "feature map", "verdict", ">seen of the map", ">seen of the image", "why", *accuracies),
        tuple(rows),
        "Verdict: of the model as it is, run by Keras with its weights. Seen: measured by gradient. Accuracy: with "
        "Wilson's 95 % interval over the images.",
    )


def best_sentence(best: Best, native: Size, convert: str | None) -> str:
    """Which way is the best on one side of the training size, how sure that is, and the command that makes it."""
    side = "below" if best.sizes[0] < native else "above"
    sizes = "1 size" if len(best.sizes) == 1 else f"the mean of {len(best.sizes)} sizes"
    text = (
        f"{side.capitalize()} {native[0]} px, {best.mode.short}: {way_text(best.way)}, {best.accuracy:.3f} in {sizes}"
    )
    if best.lead is None:
        text += "; nothing else was measured at all of these"
    else:
        next_best = f"{way_text(best.lead.way)} ({best.lead.accuracy:.3f})"
        interval = f"{100 * best.lead.mean:.1f} points, {100 * best.lead.low:.1f} to {100 * best.lead.high:.1f}"
        ahead = "ahead of the next," if best.lead.is_certain else "not told apart from the next,"
        text += f"; {ahead} {next_best}: lead {interval}"
    return f"{text}. {'Nothing has to be converted.' if convert is None else convert}"


def _convert_command(config: ProbeConfig, way: str) -> str | None:
    """What to type for a model that is run in a way; None for the model as it is."""
    if way == AS_IS:
        return None
    return to_type(
        "pipeline.convert",
        model=config.model,
        way=way,
        image_size=config.image_size,
        output_dir=None if config.output_dir == ProbeConfig.output_dir else config.output_dir,
        tracking__uri=config.tracking.uri,
    )


@command("probe")
def main(composed: DictConfig) -> None:
    """Composes, checks and probes."""
    config = to_typed(composed, ProbeConfig)
    with loading():
        import_tensorflow()
    probe(config)


if __name__ == "__main__":
    main()
