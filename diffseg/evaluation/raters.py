"""Metrics of images with masks of several raters, which the registry's entries name."""

import torch

from diffseg.evaluation.ambiguity import (
    collective_insight,
    energy_distance_of_fewer,
    hungarian_matched_iou,
    maximum_dice,
    ncc,
)
from diffseg.evaluation.case import Case, TestImage


def iou_raters(case: Case) -> torch.Tensor:
    """Return the mean IoU with each rater's mask."""
    return case.rater_ious.mean()


def dice_raters(case: Case) -> torch.Tensor:
    """Return the mean Dice with each rater's mask: 2 IoU / (1 + IoU)."""
    return (2 * case.rater_ious / (1 + case.rater_ious)).mean()


def generalised_energy_distance(image: TestImage) -> float:
    """Return the generalised energy distance, as the literature's V-statistic."""
    return image.energy_distance[0]


def unbiased_energy_distance(image: TestImage) -> float:
    """Return the generalised energy distance without bias in the samples."""
    return image.energy_distance[1]


def hm_iou(image: TestImage) -> float:
    """Return the mean IoU of the best matching of samples and raters."""
    return hungarian_matched_iou(1 - image.distances[0])


def cross_correlation(case: Case) -> float:
    """Return the normalised cross-correlation of uncertainty and error."""
    return ncc(case.pixels(case.samples), case.pixels(case.raters))


def energy_distance_by_samples(image: TestImage) -> dict[str, float]:
    """Return how the energy distance depends on the number of samples; nothing for a single rater.

    Keys: `samples`, their number, and `ged_2`, `ged_unbiased_2`, `ged_4`, … of the first 2, 4, … samples.
    """
    if len(image.raters) == 1:
        return {}
    return {"samples": len(image.prediction.masks), **energy_distance_of_fewer(*image.distances)}


def maximum_dice_matching(case: Case) -> float:
    """Return the mean over the raters of the best Dice of any sample."""
    return maximum_dice(case.samples, case.raters)


def collective_insight_score(case: Case) -> float:
    """Return the collective-insight score."""
    return collective_insight(case.pixels(case.samples), case.pixels(case.raters))
