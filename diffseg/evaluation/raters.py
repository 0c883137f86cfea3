"""Metrics of images with masks of several raters, which the registry's entries name. Joint ones return [B], others [B, K]."""

import torch

from diffseg.evaluation.ambiguity import (
    best_dice,
    combine_insight,
    energy_distance,
    energy_distance_of_fewer,
    hungarian_matched_iou,
    ncc,
    pair_ious,
    split_pairs,
)
from diffseg.evaluation.images import TestImages


def iou_raters(images: TestImages) -> torch.Tensor:
    """Return the mean IoU with each rater's mask."""
    return images.rater_ious.mean(2)


def dice_raters(images: TestImages) -> torch.Tensor:
    """Return the mean Dice with each rater's mask: 2 IoU / (1 + IoU)."""
    return (2 * images.rater_ious / (1 + images.rater_ious)).mean(2)


def generalised_energy_distance(images: TestImages) -> torch.Tensor:
    """Return the generalised energy distance, as the literature's V-statistic."""
    return energy_distance(*images.distances)[0]


def unbiased_energy_distance(images: TestImages) -> torch.Tensor:
    """Return the generalised energy distance without bias in the samples."""
    return energy_distance(*images.distances)[1]


def hm_iou(images: TestImages) -> torch.Tensor:
    """Return the mean IoU of the best matching of samples and raters."""
    return hungarian_matched_iou(1 - images.distances[0])


def cross_correlation(images: TestImages) -> torch.Tensor:
    """Return the normalised cross-correlation of uncertainty and error."""
    return ncc(images.samples, images.raters, images.valid)


def energy_distance_by_samples(images: TestImages) -> dict[str, torch.Tensor]:
    """Return how the energy distance depends on the number of samples, each [B]; nothing for a single rater.

    Keys: `samples`, their number, and `ged_2`, `ged_unbiased_2`, `ged_4`, … of the first 2, 4, … samples.
    """
    if images.raters.shape[2] == 1:
        return {}
    count = images.pixels.new_full((len(images),), images.samples.shape[2])
    return {"samples": count, **energy_distance_of_fewer(*images.distances)}


def maximum_dice_matching(images: TestImages) -> torch.Tensor:
    """Return the mean over the raters of the best Dice of any sample."""
    return best_dice(split_pairs(pair_ious(images.shared), images.samples.shape[2])[0])


def collective_insight_score(images: TestImages) -> torch.Tensor:
    """Return the collective-insight score."""
    return combine_insight(images.samples, images.raters, images.shared, images.pixels)
