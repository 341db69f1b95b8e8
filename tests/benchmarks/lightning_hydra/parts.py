"""Data and model of train.py as Lightning wants them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.append(str(Path(__file__).parents[1]))
from bare_torch import as_input, backbone, read_archives


class FashionMnist(lightning.LightningDataModule):
    """Fashion-MNIST in memory; a tenth of the first `images` training images is held out for validation."""

    def __init__(self, batch_size: int, images: int, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str | None = None) -> None:
        """Reads the archives and splits."""
        count = self.hparams["images"]
        images, labels = read_archives("train")
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(self.hparams["seed"]))
        held_out = round(count * 0.1)
        self.train, self.validation = (
            TensorDataset(images[part], labels[part]) for part in (shuffled[held_out:], shuffled[:held_out])
        )
        self.test = TensorDataset(*read_archives("t10k"))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled."""
        return DataLoader(self.train, self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return DataLoader(self.validation, self.hparams["batch_size"])

    def test_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return DataLoader(self.test, self.hparams["batch_size"])


class Classifier(lightning.LightningModule):
    """The program's small_fcn with a head."""

    def __init__(self, head: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["head"])
        self.network = nn.Sequential(*backbone(), head).to(memory_format=torch.channels_last)
        self.loss_of = nn.CrossEntropyLoss()

    def _step(self, batch: tuple[torch.Tensor, torch.Tensor], part: str) -> torch.Tensor:
        images, labels = batch
        logits = self.network(as_input(images))
        loss = self.loss_of(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({f"{part}/loss": loss, f"{part}/accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Any, index: int) -> None:
        """Records a batch."""
        self._step(batch, "val")

    def test_step(self, batch: Any, index: int) -> None:
        """Records a batch."""
        self._step(batch, "test")

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with a cosine schedule, step by step."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])
        steps = math.ceil(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
