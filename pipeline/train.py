"""One run: `python -m pipeline.train head=global_average_pool dataset=fashion_mnist seed=3`."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from pipeline import cli, multi_worker, run_page
from pipeline.compare import gathered, show_run
from pipeline.config import Config, to_typed
from pipeline.tracking import store, study
from pipeline.tracking.elsewhere import finished_elsewhere
from pipeline.tracking.record import register_earlier, run_key, start_run
from pipeline.tracking.resume import Trained, claim, finished_run

log = logging.getLogger("pipeline")


def train(config: Config, composed: str, sweep: str | None = None, command: str | None = None) -> Trained:
    """Trains one head, measures it, and records it; goes on with a run that was interrupted, and repeats none.

    Args:
        config: The typed configuration.
        composed: The same as YAML.
        sweep: See `tracking.record.start_run`.
        command: What to type to do the same again.
    """
    cli.import_tensorflow()  # Only now that the configuration is known to be valid: it takes seconds.
    from pipeline.callbacks import LossNotFiniteError
    from pipeline.cost import measure_cost
    from pipeline.evaluation import accuracy, cross_entropy, predict
    from pipeline.model import build_model
    from pipeline.natural_sizes import check_smallest
    from pipeline.pairing import pairing_of
    from pipeline.size_probe import check_plan, check_training_sizes, measure_sizes, plan_sizes
    from pipeline.training import fit

    dataset, backbone, head, probe = config.dataset, config.backbone, config.head, config.size_probe
    facts = dataset.describe()
    config.launch.limit_threads(config.training.wants_one_thread(facts) and not cli.image_sizes_vary())
    strategy = config.training.prepare_devices()
    planned = plan_sizes(backbone, head, probe, facts)
    check_training_sizes(backbone, head, config.training.sizes or [], facts)
    store.open_store(config.tracking.recorded, config.output_path)
    data = dataset.load(config.seed, config.output_path / "cache")
    check_smallest(backbone, data)
    key = run_key(config, data)
    if not multi_worker.is_first(strategy):
        return multi_worker.train_along(config, data, key, strategy)

    with claim(config.output_path, key) as state_file:
        log.info("%s on %s, %s, seed %d", head.name, facts.name, backbone.name, config.seed)
        earlier = finished_run(config, facts, key, sweep) or finished_elsewhere(config, facts, key, sweep)
        if earlier is not None:
            log.info("  done before, as run %s; rerun=true trains it again", earlier.run_id)
            if config.tracking.register_as:
                register_earlier(config.tracking.register_as, earlier.run_id)
            return earlier
        with start_run(config, composed, data, key, sweep) as record:
            with strategy.scope():
                model = build_model(backbone, head, facts.image_shape, facts.classes, config.seed)
                record.pairing(pairing_of(data, model, config.training.batch_size))
                others = []
                if config.training.prune and sweep is not None:
                    others = study.whole_trainings(sweep, facts.name, config.training.epochs)
                try:
                    result = fit(model, data, config.training, record.epoch, state_file, others)
                except LossNotFiniteError as error:
                    if error.epoch > 1:
                        record.last_good_model(model)
                    raise
            record.fit(result)
            if config.tracking.log_model:
                record.model(model, facts.class_names)
            logits, labels = predict(model, data.test(probe.batch_size), data.test_order())
            record.test(logits, labels, accuracy(logits, labels), cross_entropy(logits, labels))
            log.info("  test accuracy %.4f", accuracy(logits, labels))
            cost = measure_cost(model, facts.image_shape)
            record.cost(cost)
            measured = measure_sizes(model, backbone, head, probe, data, logits, labels)
            check_plan(head, planned, measured)
            record.sizes(planned, measured, labels)
            text = run_page.describe(facts, cost, accuracy(logits, labels), measured, command, record.picture)
            record.page(text, run_page.draw(data, logits, labels, measured))
            if config.tracking.register_as:
                record.register(config.tracking.register_as, accuracy(logits, labels))
    return Trained(record.run_id, result.validation_accuracy)


@cli.command("train")
@cli.one_of_many
def main(composed: DictConfig) -> float:
    """Composes, checks and runs one training."""
    config = to_typed(composed, Config)
    if config.tracking.is_server and cli.sweep_name() is None:  # That of a sweep is tried before its first run.
        store.open_store(config.tracking, config.output_path)
    trained = train(config, OmegaConf.to_yaml(composed, resolve=True), cli.sweep_name(), cli.command_line())
    if cli.sweep_name() is None and trained.run_id:  # The runs of a sweep are shown together, at its end.
        settings, copies = gathered(study.run(trained.run_id), config.tracking, config.output_path)
        show_run(copies.get(trained.run_id, trained.run_id), settings, config.output_path)
    return trained.validation_accuracy


if __name__ == "__main__":
    main()
