"""One training on several machines: each process, a rank, computes its share of every batch.

The first rank claims the run, records it and measures it; the others train along. All of them are started with the same
command, with `TF_CONFIG` telling each who the others are and which of them it is.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UserError, require
from pipeline.pairing import digest_of
from pipeline.tracking.resume import Trained, finished_run, state_file

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.config import Config
    from pipeline.data import Data

log = logging.getLogger("pipeline")


@functools.cache  # TensorFlow connects to the other ranks once in a process.
def connect() -> tf.distribute.Strategy:
    """The strategy over all ranks; waits for them to be there.

    Raises:
        ConfigError: `TF_CONFIG` is not set.
    """
    import tensorflow as tf

    if "TF_CONFIG" not in os.environ:
        raise ConfigError(
            "training.strategy",
            "multi_worker",
            "needs the environment variable TF_CONFIG, which tells each process of all others",
            'Set for example TF_CONFIG=\'{"cluster": {"worker": ["host1:9000", "host2:9000"]}, "task": {"type": '
            '"worker", "index": 0}}\' on host1, index 1 on host2, or use training.strategy=none.',
        )

    class OfKeras(tf.distribute.MultiWorkerMirroredStrategy):
        """With the two reductions that Keras 3 asks for and TensorFlow refuses."""

        def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
            if isinstance(value, tuple | list | dict):
                # A batch, of which Keras wants to know the shapes alone.
                return tf.nest.map_structure(lambda leaf: self.experimental_local_results(leaf)[0], value)
            local = self.experimental_local_results(value)[0]
            return super().reduce(reduce_op, value, axis=axis if local.shape.rank else None)

    return OfKeras()


def is_first(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process records the run: the only one, or the first rank."""
    return bool(strategy.extended.should_checkpoint)


def check_last_step(images: int, batch_size: int) -> None:
    """Raises `ConfigError` if an epoch's last step has fewer images than there are ranks or GPUs to share them."""
    import tensorflow as tf

    replicas, last = tf.distribute.get_strategy().num_replicas_in_sync, images % batch_size
    require(
        last == 0 or last >= replicas,
        "training.batch_size",
        batch_size,
        f"leaves {last} of {images} images for an epoch's last step, which {replicas} processes or GPUs have to share",
        f"Use for example training.batch_size={batch_size - 1}.",
    )


@contextmanager
def lost_ranks_told() -> Iterator[None]:
    """Raises `UserError` where TensorFlow finds, some 20 s later, that another rank is gone."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if "Collective ops is aborted" not in str(error):
            raise
        raise UserError(
            "training.strategy=multi_worker: another rank is gone, and no rank can train alone. Start all of them "
            "again with the same command; they go on from the last saved state."
        ) from error


def train_along(config: Config, data: Data, key: str, strategy: tf.distribute.Strategy) -> Trained:
    """What the other ranks do: their share of each step, from the state and to the weights of the first rank."""
    from pipeline.model import build_model
    from pipeline.training import fit

    facts = data.facts
    if (earlier := finished_run(config, facts, key, sweep=None)) is not None:
        return earlier
    # The first rank alone keeps the state; all of them go on from it.
    training = dataclasses.replace(config.training, checkpoint_seconds=None)
    with strategy.scope():
        model = build_model(config.backbone, config.head, facts.image_shape, facts.classes, config.seed)
        result = fit(model, data, training, lambda *_: None, state_file(config.output_path, key))
    weights = digest_of(*(variable.numpy() for variable in model.trainable_variables))
    log.info("  rank %d trained along; digest of the weights %s", strategy.cluster_resolver.task_id, weights)
    return Trained("", result.validation_accuracy)
