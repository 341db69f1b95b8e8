"""One run, from its data to its record: start reading here."""

from __future__ import annotations

import dataclasses
import logging

import tensorflow as tf

from pipeline.common.digest import digest_of
from pipeline.config import Config
from pipeline.config.identify import identify
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.models.backbones.base import Backbone
from pipeline.models.build import build_model
from pipeline.models.cost import measure_cost
from pipeline.models.predict import predict
from pipeline.models.scores import score
from pipeline.other_sizes.measure import check_plan, measure_sizes
from pipeline.other_sizes.plan import SizePlan
from pipeline.tracking import run_page
from pipeline.tracking.code_digest import code_digest
from pipeline.tracking.identity import RunIdentity
from pipeline.tracking.models import with_weights
from pipeline.tracking.queries import whole_trainings
from pipeline.tracking.record import register_earlier, start_run
from pipeline.tracking.resume import Trained, exclusive, finished_run, state_file
from pipeline.tracking.server.peers import finished_by_peer
from pipeline.tracking.store import open_store
from pipeline.training.callbacks import LossNotFiniteError
from pipeline.training.devices import limit_threads, prepare_devices
from pipeline.training.fit import fit
from pipeline.training.frozen import fitting_of
from pipeline.training.multi_worker import is_chief
from pipeline.training.pairing import pairing_of
from pipeline.training.stages import check_layers, fit_in_stages

log = logging.getLogger("pipeline")


def train(
    config: Config,
    composed: str,
    sweep: str | None = None,
    command: str | None = None,
    sizes_vary: bool = False,
    sweep_runs: int | None = None,
) -> Trained:
    """Trains one head, measures it, and records it; goes on with a run that was interrupted, and repeats none.

    Args:
        config: The typed configuration.
        composed: The same as YAML.
        sweep: What all runs of one call of a study have in common; None for a run on its own.
        command: What to type to do the same again.
        sizes_vary: Whether other runs of this process may compute other numbers of pixels in a step.
        sweep_runs: How many runs that call of a study asked for; None where that is not known.
    """
    head, training, probe = config.head, config.training, config.size_probe
    facts = source.describe(config.dataset)
    limit_threads(config.launch.threads, training.wants_one_thread(facts) and not sizes_vary)
    strategy = prepare_devices(training)
    backbone = with_weights(config.backbone, config.tracking, config.output_path)
    plan = SizePlan(backbone, head, facts)
    planned = plan.sizes(probe)
    plan.check_training(training.sizes)
    open_store(config.tracking.recorded, config.output_path)
    log.info("%s on %s, %s, seed %d", head.name, facts.name, backbone.name, config.seed)
    data = source.load(config.dataset, config.seed, config.output_path / "cache")
    plan.check_smallest(data)
    identity = identify(config, data, plan, sweep, sweep_runs)
    if not is_chief(strategy):
        return _train_as_worker(config, backbone, data, identity, strategy)

    with exclusive(config.output_path, identity.key) as state:
        if (earlier := finished_run(identity) or finished_by_peer(identity)) is not None:
            log.info("  done before, as run %s; rerun=true trains it again", earlier.run_id)
            if config.tracking.register_as:
                register_earlier(config.tracking.register_as, earlier.run_id)
            return earlier
        with start_run(identity, composed, data) as record:
            with strategy.scope():
                model = build_model(backbone, head, facts.image_shape, facts.classes, config.seed)
                record.log_pairing(pairing_of(data, model, training.batch_size))
                check_layers(model, training)
                made_by = digest_of(code_digest(), repr(config.dataset))
                directory = config.output_path / "cache" / "features"
                fitting = fitting_of(model, backbone, training, data, made_by, directory)
                others = []
                if training.prune and sweep is not None:
                    others = whole_trainings(sweep, facts.name, training.epochs)
                try:
                    result, fitting = fit_in_stages(model, data, fitting, training, record.log_epoch, state, others)
                except LossNotFiniteError as error:
                    if error.epoch > 1:
                        record.log_last_good_model(model)
                    raise
            record.log_fit(result)
            if config.tracking.log_model:
                record.log_model(model, facts.class_names)
            logits, labels = predict(fitting.model, fitting.data.test(probe.batch_size), data.test_order())
            scores = score(logits, labels)
            record.log_test(logits, labels, scores, facts.class_names)
            log.info("  test accuracy %.4f", scores.accuracy)
            cost = measure_cost(model, facts.image_shape)
            record.log_cost(cost)
            measured = measure_sizes(model, plan, probe, data, logits, labels, fitting.features)
            check_plan(head, planned, measured)
            record.log_sizes(planned, measured, labels)
            figures = run_page.draw(model, head, data, logits, labels, measured)
            words = plan.backbone_in_words
            text = run_page.describe(facts, words, cost, scores, measured, figures, command, record.picture)
            record.log_page(text, figures)
            if config.tracking.register_as:
                record.register(config.tracking.register_as, scores.accuracy)
    return Trained(record.run_id, result.validation_accuracy)


def _train_as_worker(
    config: Config, backbone: Backbone, data: Data, identity: RunIdentity, strategy: tf.distribute.Strategy
) -> Trained:
    """What ranks other than the chief do: their share of each step, from the chief's state and to its weights."""
    facts = data.facts
    if (earlier := finished_run(dataclasses.replace(identity, sweep=None))) is not None:
        return earlier
    # The chief alone keeps the state; all of them go on from it.
    training = dataclasses.replace(config.training, checkpoint_seconds=None)
    with strategy.scope():
        model = build_model(backbone, config.head, facts.image_shape, facts.classes, config.seed)
        result = fit(model, data, training, lambda *_: None, state_file(config.output_path, identity.key))
    weights = digest_of(*(variable.numpy() for variable in model.trainable_variables))
    log.info("  rank %d trained along; digest of the weights %s", strategy.cluster_resolver.task_id, weights)
    return Trained("", result.validation_accuracy)
