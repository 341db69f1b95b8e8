"""One run with Lightning and Hydra: `python tests/benchmarks/lightning_hydra/train.py head=flatten_dense seed=1`.

The habit that `python -m pipeline.train study=heads` is measured against: a process a run, everything built by
`hydra.utils.instantiate`, checkpoints, a CSV log, a test with the best weights at the end.
"""

from __future__ import annotations

import json

import hydra
import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Trains, tests, prints one line of JSON."""
    lightning.seed_everything(config.seed, workers=True)
    data = instantiate(config.data)
    model = instantiate(config.model)
    trainer = instantiate(config.trainer, callbacks=instantiate(config.callbacks), logger=instantiate(config.logger))
    trainer.fit(model, datamodule=data)
    (metrics,) = trainer.test(model, datamodule=data, ckpt_path="best")
    print(json.dumps({"test_accuracy": metrics["test/accuracy"]}))


if __name__ == "__main__":
    main()
