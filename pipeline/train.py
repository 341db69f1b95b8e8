"""One run: `python -m pipeline.train head=global_average_pool dataset=fashion_mnist seed=3`."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from pipeline import cli, tracking
from pipeline.config import Config, to_typed

log = logging.getLogger("pipeline")


def train(config: Config, composed: str, sweep: str | None = None) -> float:
    """Trains one head, measures it, records it, and returns the validation accuracy of the weights that it kept.

    Args:
        config: The typed configuration.
        composed: The same as YAML.
        sweep: See `tracking.start_run`.
    """
    cli.import_tensorflow()  # Only now that the configuration is known to be valid: it takes seconds.
    from pipeline.cost import measure_cost
    from pipeline.evaluation import accuracy, cross_entropy, predict
    from pipeline.model import build_model
    from pipeline.pairing import pairing_of
    from pipeline.size_probe import check_plan, measure_sizes, plan_sizes
    from pipeline.training import fit

    dataset, backbone, head, probe = config.dataset, config.backbone, config.head, config.size_probe
    strategy = config.training.prepare_devices()
    facts = dataset.describe()
    planned = plan_sizes(backbone, head, probe, facts)
    tracking.open_store(config.tracking, config.output_path)
    data = dataset.load(config.seed, config.output_path / "cache")

    with tracking.start_run(config, composed, data, sweep) as record:
        log.info("%s on %s, %s, seed %d", head.name, facts.name, backbone.name, config.seed)
        with strategy.scope():
            model = build_model(backbone, head, facts.image_shape, facts.classes, config.seed)
            record.pairing(pairing_of(data, model, config.training.batch_size))
            result = fit(model, data, config.training, record.epoch)
        record.fit(result)
        if config.tracking.log_model:
            record.model(model, facts.class_names)
        logits, labels = predict(model, data.test(probe.batch_size))
        record.test(logits, labels, accuracy(logits, labels), cross_entropy(logits, labels))
        log.info("  test accuracy %.4f", accuracy(logits, labels))
        record.cost(measure_cost(model, facts.image_shape))
        measured = measure_sizes(model, backbone, head, probe, data, logits, labels)
        check_plan(head, planned, measured)
        record.sizes(planned, measured, labels)
    return result.validation_accuracy


@cli.command("train")
def main(composed: DictConfig) -> float:
    """Composes, checks and runs one training."""
    return train(to_typed(composed), OmegaConf.to_yaml(composed, resolve=True), cli.sweep_name())


if __name__ == "__main__":
    main()
