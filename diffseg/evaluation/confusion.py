"""Confusion between exclusive classes: how many pixels of each true class were predicted as each class."""

import torch

from diffseg.config.data import BACKGROUND
from diffseg.evaluation.case import TestImage
from diffseg.labels.classes import Classes
from diffseg.rows import Row


def count_confusions(image: TestImage) -> torch.Tensor:
    """Return the number of pixels by true and predicted class, int64 [K + 1, K + 1] with the background first.

    The true class is the majority's; a pixel without one is background. Pixels that do not count are left out.
    """
    truth, predicted = (
        torch.stack([getattr(case, name) for case in image.classes]) for name in ("majority", "mask")
    )  # bool [K, H, W]
    side = len(truth) + 1
    index = image.pixels(_class_numbers(truth) * side + _class_numbers(predicted)).flatten()
    return index.new_zeros(side * side).index_add_(0, index, torch.ones_like(index)).view(side, side)


def confusion_rows(counts: list[torch.Tensor], names: list[Row], classes: Classes) -> list[Row]:
    """Return rows of the ledger's table `confusion`, given the counts of each image and the image's name."""
    classes_and_background = (BACKGROUND, *classes.names)
    return [
        name | {"truth": truth, "predicted": predicted, "count": count}
        for name, table in zip(names, torch.stack(counts).tolist(), strict=True)
        for truth, row in zip(classes_and_background, table, strict=True)
        for predicted, count in zip(classes_and_background, row, strict=True)
        if count
    ]


def _class_numbers(masks: torch.Tensor) -> torch.Tensor:
    """Return the number of each pixel's class, int64 [H, W], 0 for background, given masks [K, H, W]."""
    return torch.where(masks.any(0), masks.byte().argmax(0) + 1, 0)
