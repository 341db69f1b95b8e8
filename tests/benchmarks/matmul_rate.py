"""The machine's float32 matrix products: `python tests/benchmarks/matmul_rate.py` prints operations a second, as JSON.

TensorFlow's own, of two 2048×2048 matrices, a multiplication and an addition counting two: the rate that convolutions
could reach at best. Median of 40 products.
"""

from __future__ import annotations

import json
import statistics
import time

import tensorflow as tf

SIDE = 2048
PRODUCTS = 40


def main() -> None:
    """Measures and prints."""
    first, second = tf.random.normal((SIDE, SIDE)), tf.random.normal((SIDE, SIDE))
    seconds = []
    for _ in range(PRODUCTS + 3):
        began = time.perf_counter()
        tf.linalg.matmul(first, second).numpy()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"flops_per_second": 2 * SIDE**3 / statistics.median(seconds[3:])}))


if __name__ == "__main__":
    main()
