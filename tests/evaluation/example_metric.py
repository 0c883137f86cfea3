"""A new metric, as the manual shows it: a function of one test image, and an entry."""

import torch

from diffseg.evaluation.case import Case
from diffseg.evaluation.registry import Metric, register


def area_error(case: Case) -> torch.Tensor:
    """Return the relative error of the foreground's area; NaN without true foreground."""
    predicted, true = case.mask.sum().double(), case.majority.sum().double()
    return torch.where(true > 0, (predicted - true).abs() / true, torch.nan)


register(
    Metric(
        "area_error",
        "error of the area",
        "example_metric:area_error",
        "| |P| − |Y| | / |Y| of the predicted foreground P and the mask Y; NaN where Y is empty.",
        larger_is_better=False,
        range="0 and above",
    )
)
