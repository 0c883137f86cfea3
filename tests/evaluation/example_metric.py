"""A new metric, as the manual shows it: a function of a batch of test images, and an entry."""

import torch

from diffseg.evaluation.images import TestImages
from diffseg.evaluation.registry import Metric, register


def area_error(images: TestImages) -> torch.Tensor:
    """Return the relative error of the foreground's area, [images, classes]; NaN without true foreground."""
    predicted, true = (masks.sum((-2, -1)).double() for masks in (images.mask, images.majority))
    return torch.where(true > 0, (predicted - true).abs() / true, torch.nan)


register(
    Metric(
        "area_error",
        "error of the area",
        "example_metric:area_error",
        "| |P| − |Y| | / |Y| of the predicted foreground P and the mask Y; NaN where Y is empty.",
        larger_is_better=False,
        most=float("inf"),
    )
)
