"""What computes a training: threads, precision, determinism, GPUs, and other machines."""

from __future__ import annotations

import logging

import keras
import tensorflow as tf

from pipeline.training.multi_worker import connect
from pipeline.training.settings import Strategy, Training

log = logging.getLogger("pipeline")


def prepare_devices(training: Training) -> tf.distribute.Strategy:
    """Sets precision, determinism and GPU memory growth; returns the strategy to build and fit under.

    Raises:
        ConfigError: `training.strategy=multi_worker` without `TF_CONFIG`.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.config.set_dtype_policy(training.precision.value)
    if training.deterministic:
        # Stays on in this process for good: TensorFlow has no way back.
        tf.config.experimental.enable_op_determinism()
    if training.strategy is Strategy.mirrored:
        return tf.distribute.MirroredStrategy()
    if training.strategy is Strategy.multi_worker:
        return connect()
    return tf.distribute.get_strategy()


def limit_threads(threads: int | None, one_is_fastest: bool) -> None:
    """Holds TensorFlow to so many threads, or to one for each operation where none are asked for and one is fastest.

    Once TensorFlow has computed in this process, its threads stay as they are.

    Args:
        threads: `launch.threads`; None for as many as TensorFlow takes.
        one_is_fastest: See `Training.wants_one_thread`.
    """
    asked = threads or (1 if one_is_fastest else None)
    if asked is None:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(asked)
        if threads is not None:
            tf.config.threading.set_inter_op_parallelism_threads(asked)
    except RuntimeError:  # It has computed.
        if threads is not None:
            log.warning("launch.threads=%d comes too late: this process has begun with others", threads)
