"""Confusion between exclusive classes: how many pixels of each true class were predicted as each class."""

import torch

from diffseg.config.data import BACKGROUND
from diffseg.evaluation.images import TestImages
from diffseg.evaluation.metrics import number_classes
from diffseg.labels.classes import Classes
from diffseg.rows import Row


def count_confusions(images: TestImages) -> torch.Tensor:
    """Return the number of pixels by true and predicted class, int64 [B, K + 1, K + 1] with the background first.

    The true class is the majority's; a pixel without one is background. Pixels that do not count are left out.
    """
    truth, predicted = (number_classes(masks, 1).long() for masks in (images.majority, images.mask))
    side = images.mask.shape[1] + 1
    index = (truth * side + predicted).flatten(1)
    weights = torch.ones_like(index) if images.valid is None else images.valid.flatten(1).long()
    return index.new_zeros(len(images), side * side).scatter_add_(1, index, weights).view(-1, side, side)


def confusion_rows(counts: torch.Tensor, names: list[Row], classes: Classes) -> list[Row]:
    """Return rows of the ledger's table `confusion`, given the counts of each image [N, K + 1, K + 1] and its name."""
    classes_and_background = (BACKGROUND, *classes.names)
    return [
        name | {"truth": truth, "predicted": predicted, "count": count}
        for name, table in zip(names, counts.tolist(), strict=True)
        for truth, row in zip(classes_and_background, table, strict=True)
        for predicted, count in zip(classes_and_background, row, strict=True)
        if count
    ]
