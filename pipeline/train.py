"""One run, or a study of many: `python -m pipeline.train head=global_average_pool dataset=fashion_mnist seed=3`."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from pipeline.cli.command import command, one_of_many
from pipeline.cli.loading import loading
from pipeline.cli.session import SESSION, command_line, sweep_name, sweep_size
from pipeline.cli.terminal import import_tensorflow
from pipeline.config import Config, to_typed


@command("train")
@one_of_many
def main(composed: DictConfig) -> float:
    """Composes, checks, runs one training and shows it; the runs of a sweep are shown together, at its end."""
    config = to_typed(composed, Config)
    with loading():  # Only now that the configuration is known to be valid: it takes seconds.
        import_tensorflow()
        from pipeline.run import train
        from pipeline.study.gather import gathered
        from pipeline.study.links import show_run
        from pipeline.study.progress import tell_progress
        from pipeline.tracking.queries import one_run
        from pipeline.tracking.store import open_store

    sweep = sweep_name()
    if config.tracking.is_server and sweep is None:  # That of a sweep is tried before its first run.
        open_store(config.tracking, config.output_path)
    yaml = OmegaConf.to_yaml(composed, resolve=True)
    trained = train(config, yaml, sweep, command_line(), SESSION.image_sizes_vary(), sweep_size())
    if sweep is not None and trained.run_id:
        tell_progress(trained.run_id, sweep)
    elif trained.run_id:
        tracking, copies = gathered(one_run(trained.run_id), config.tracking, config.output_path)
        show_run(copies.get(trained.run_id, trained.run_id), tracking, config.output_path)
    return trained.validation_accuracy


if __name__ == "__main__":
    main()
