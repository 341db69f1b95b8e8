"""The work of bare_keras.py as one writes it by hand in PyTorch, for a CPU: channels last, arrays in memory.

    python tests/benchmarks/bare_torch.py EPOCHS BATCH_SIZE

Needs PyTorch only (lightning_hydra/requirements.txt), and Fashion-MNIST's archives where TFDS keeps them. Prints one
line of JSON.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

ARCHIVES = Path.home() / "tensorflow_datasets" / "downloads" / "manual"


def read_archives(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 1, 28, 28) and labels int64 (N,) of `train` or `t10k`, from the format of MNIST's archives."""
    with gzip.open(ARCHIVES / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(ARCHIVES / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels)


def backbone() -> list[nn.Module]:
    """The layers of the program's small_fcn: four 3×3 convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    channels = 1
    for filters, stride in zip((32, 32, 64, 64), (1, 2, 1, 2), strict=True):
        # PyTorch's momentum is the share of the new value, Keras's that of the old one.
        norm = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1)
        layers += [nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False), norm, nn.ReLU()]
        channels = filters
    return layers


def correct(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
    """Top-1 accuracy."""
    model.eval()
    with torch.inference_mode():
        hits = [
            (model(as_input(images[at : at + batch_size])).argmax(1) == labels[at : at + batch_size]).sum().item()
            for at in range(0, len(labels), batch_size)
        ]
    model.train()
    return sum(hits) / len(labels)


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Pixels as float32 in [0, 1], channels last in memory."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def main(epochs: int, batch_size: int) -> None:
    """Trains, evaluates on the test split, prints."""
    images, labels = read_archives("train")
    test_images, test_labels = read_archives("t10k")
    torch.manual_seed(0)
    shuffled = torch.randperm(len(labels))
    held_out = round(len(labels) * 0.1)
    train, validation = shuffled[held_out:], shuffled[:held_out]

    model = nn.Sequential(*backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = math.ceil(len(train) / batch_size) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    loss_of = nn.CrossEntropyLoss()
    seconds: list[float] = []
    for _ in range(epochs):
        began = time.perf_counter()
        order = train[torch.randperm(len(train))]
        for at in range(0, len(order), batch_size):
            chosen = order[at : at + batch_size]
            loss = loss_of(model(as_input(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - began)
        correct(model, images[validation], labels[validation], batch_size)
    accuracy = correct(model, test_images, test_labels, batch_size)
    steady = seconds[1:] or seconds
    images_per_second = len(steady) * len(train) / sum(steady)
    print(json.dumps({"images_per_second": images_per_second, "test_accuracy": accuracy}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
