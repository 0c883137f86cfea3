"""One test image as the registered metrics see it, and those metrics: functions of a Case, named by the registry's entries."""

from dataclasses import dataclass
from functools import cached_property

import torch

from diffseg.config import Config
from diffseg.evaluation.ambiguity import (
    distances,
    energy_distance,
    energy_distance_of_fewer,
    hungarian_matched_iou,
    iou_matrix,
    ncc,
)
from diffseg.evaluation.calibration import calibration_errors
from diffseg.evaluation.metrics import brier, nll, overlap
from diffseg.prediction.merging import Prediction


@dataclass(frozen=True)
class Case:
    """A test image: the ensemble's prediction, and the raters' masks that it is compared with."""

    prediction: Prediction
    raters: torch.Tensor  # bool [R, H, W]
    config: Config

    @property
    def probability(self) -> torch.Tensor:
        """The ensemble's foreground probability, float32 [H, W]."""
        return self.prediction.mean

    @property
    def samples(self) -> torch.Tensor:
        """The masks of the ensemble's members, bool [n, H, W]."""
        return self.prediction.masks

    @cached_property
    def mask(self) -> torch.Tensor:
        """The predicted mask, bool [H, W]."""
        return self.probability > self.config.inference.threshold

    @cached_property
    def majority(self) -> torch.Tensor:
        """The pixels that more than half of the raters marked, bool [H, W]."""
        return self.raters.float().mean(0) > 0.5

    @property
    def sampled_masks(self) -> int | None:
        """The number of sampled masks behind the probability; None if the members are probabilities, as E1's are."""
        sampled = self.config.experiment == "e2" or self.config.inference.merge != "mean"
        return self.config.inference.ensemble if sampled else None

    @cached_property
    def overlap(self) -> tuple[torch.Tensor, torch.Tensor]:
        """IoU and Dice with the majority."""
        return overlap(self.mask, self.majority)

    @cached_property
    def calibration_errors(self) -> dict[str, torch.Tensor]:
        """The ECE of regions, mean over the raters for whom it is defined."""
        rows = [calibration_errors(self.probability, self.mask, mask) for mask in self.raters]
        return {name: torch.stack([row[name] for row in rows]).nanmean() for name in rows[0]}

    @cached_property
    def rater_ious(self) -> torch.Tensor:
        """The IoU of the predicted mask with each rater's, float64 [R]."""
        return iou_matrix(self.mask[None], self.raters)[0]

    @cached_property
    def distances(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """1 − IoU between samples and raters, among samples, among raters."""
        return distances(self.samples, self.raters)

    @cached_property
    def energy_distance(self) -> tuple[float, float]:
        """The generalised energy distance: the V-statistic and the unbiased estimate."""
        return energy_distance(*self.distances)


def iou(case: Case) -> torch.Tensor:
    """Return the IoU of the predicted mask with the majority of the raters."""
    return case.overlap[0]


def dice(case: Case) -> torch.Tensor:
    """Return the Dice of the predicted mask with the majority of the raters."""
    return case.overlap[1]


def brier_score(case: Case) -> torch.Tensor:
    """Return the Brier score, mean over the raters."""
    return torch.stack([brier(case.probability, mask).double() for mask in case.raters]).mean()


def negative_log_likelihood(case: Case) -> torch.Tensor:
    """Return the negative log-likelihood of a pixel in nats, mean over the raters."""
    return torch.stack([nll(case.probability, mask, case.sampled_masks) for mask in case.raters]).mean()


def ece_image(case: Case) -> torch.Tensor:
    """Return the calibration error of all pixels of the image."""
    return case.calibration_errors["ece_image"]


def ece_boundary(case: Case) -> torch.Tensor:
    """Return the calibration error of the band around the mask's contour."""
    return case.calibration_errors["ece_boundary"]


def ece_foreground(case: Case) -> torch.Tensor:
    """Return the calibration error of the mask, the band around its contour, and the predicted foreground."""
    return case.calibration_errors["ece_foreground"]


def variance(case: Case) -> torch.Tensor:
    """Return the variance of the ensemble's members, mean over the pixels."""
    return case.prediction.sd.double().square().mean()


def iou_raters(case: Case) -> torch.Tensor:
    """Return the mean IoU with each rater's mask."""
    return case.rater_ious.mean()


def dice_raters(case: Case) -> torch.Tensor:
    """Return the mean Dice with each rater's mask: 2 IoU / (1 + IoU)."""
    return (2 * case.rater_ious / (1 + case.rater_ious)).mean()


def generalised_energy_distance(case: Case) -> float:
    """Return the generalised energy distance, as the literature's V-statistic."""
    return case.energy_distance[0]


def unbiased_energy_distance(case: Case) -> float:
    """Return the generalised energy distance without bias in the samples."""
    return case.energy_distance[1]


def hm_iou(case: Case) -> float:
    """Return the mean IoU of the best matching of samples and raters."""
    return hungarian_matched_iou(case.samples, case.raters)


def cross_correlation(case: Case) -> float:
    """Return the normalised cross-correlation of uncertainty and error."""
    return ncc(case.samples, case.raters)


def energy_distance_by_samples(case: Case) -> dict[str, float]:
    """Return how the energy distance depends on the number of samples; nothing for a single rater.

    Keys: `samples`, their number, and `ged_2`, `ged_unbiased_2`, `ged_4`, … of the first 2, 4, … samples.
    """
    if len(case.raters) == 1:
        return {}
    return {"samples": len(case.samples), **energy_distance_of_fewer(*case.distances)}
