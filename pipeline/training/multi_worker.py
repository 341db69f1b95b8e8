"""One training on several machines: each process, a rank, computes its share of every batch.

The first rank, the chief, has the run to itself, records it and measures it; the others are its workers. All of them
are started with the same command, with `TF_CONFIG` telling each who the others are and which of them it is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipeline.common.errors import ConfigError, UserError, require


@functools.cache  # TensorFlow connects to the other ranks once in a process.
def connect() -> tf.distribute.Strategy:
    """The strategy over all ranks; waits for them to be there.

    Raises:
        ConfigError: `TF_CONFIG` is not set.
    """
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


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process records the run: the only one, or the first rank."""
    return bool(strategy.extended.should_checkpoint)


def check_last_step(images: int, batch_size: int) -> None:
    """Raises `ConfigError` if an epoch's last step has fewer images than there are ranks or GPUs to share them."""
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
    try:
        yield
    except tf.errors.OpError as error:
        if "Collective ops is aborted" not in str(error):
            raise
        raise UserError(
            "training.strategy=multi_worker: another rank is gone, and no rank can train alone. Start all of them "
            "again with the same command; they go on from the last saved state."
        ) from error
