"""One class of a test image as the registered metrics see it, and metrics of it, which the registry's entries name."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from diffseg.config import Config
from diffseg.evaluation.ambiguity import distances, energy_distance, iou_matrix
from diffseg.evaluation.calibration import calibration_errors
from diffseg.evaluation.metrics import brier, categorical_nll, nll, overlap
from diffseg.evaluation.shapes import Shapes
from diffseg.labels.labels import Labels
from diffseg.prediction.merging import Prediction


@dataclass(frozen=True)
class TestImage:
    """A test image: the ensemble's prediction of all classes, and the raters' masks that it is compared with."""

    __test__ = False  # pytest would collect it

    prediction: Prediction
    raters: torch.Tensor  # bool [R, K, H, W]
    valid: torch.Tensor | None  # bool [H, W]: the pixels that count; None if all do
    config: Config
    spacing: tuple[float, float] | None = None  # mm between rows and between columns; None: distances are in pixels
    instances: np.ndarray | None = (
        None  # [H, W]: the number of each pixel's annotated object, 0 for none; None if unknown
    )

    @cached_property
    def masks(self) -> torch.Tensor:
        """The predicted masks of the classes, bool [K, H, W]."""
        return Labels.of(self.config).decide(self.prediction.mean, self.config.inference.threshold)

    @cached_property
    def classes(self) -> tuple["Case", ...]:
        """The classes, one by one."""
        return tuple(Case(self, k) for k in range(self.raters.shape[1]))

    @cached_property
    def shapes(self) -> tuple[Shapes, ...]:
        """The predicted mask and the majority's of each class, on the host."""
        pairs = torch.stack([torch.stack([case.mask, case.majority]) for case in self.classes]).cpu().numpy()
        return tuple(Shapes.crop(predicted, true, self.instances, self.spacing) for predicted, true in pairs)

    @property
    def sampled_masks(self) -> int | None:
        """The number of sampled masks behind the probability; None if the members are probabilities, as E1's are."""
        sampled = self.config.experiment == "e2" or self.config.inference.merge != "mean"
        return self.config.inference.ensemble if sampled else None

    def pixels(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [..., H, W] of the pixels that count: [..., N], or as they are if all count."""
        return values if self.valid is None else values[..., self.valid]

    @cached_property
    def distances(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """1 − IoU between samples and raters, among samples, among raters; the mean over the classes."""
        found = [distances(case.samples, case.raters) for case in self.classes]
        cross, among, truth = (torch.stack(same).mean(0) for same in zip(*found, strict=True))
        return cross, among, truth

    @cached_property
    def energy_distance(self) -> tuple[float, float]:
        """The generalised energy distance: the V-statistic and the unbiased estimate."""
        return energy_distance(*self.distances)


@dataclass(frozen=True)
class Case:
    """One class of a test image: what is predicted of it, and the raters' masks of it.

    Pixels that do not count are outside of all masks. Means over pixels leave them out by `pixels`.
    """

    image: TestImage
    number: int  # of the class, from 0

    @property
    def config(self) -> Config:
        """The trial's configuration."""
        return self.image.config

    @property
    def probability(self) -> torch.Tensor:
        """The ensemble's probability of the class, float32 [H, W]."""
        return self.image.prediction.mean[self.number]

    @property
    def sd(self) -> torch.Tensor:
        """The standard deviation over the ensemble's members, float32 [H, W]."""
        return self.image.prediction.sd[self.number]

    @cached_property
    def samples(self) -> torch.Tensor:
        """The masks of the ensemble's members, bool [n, H, W]."""
        return self._leave_out(self.image.prediction.masks[:, self.number])

    @cached_property
    def raters(self) -> torch.Tensor:
        """The masks of the raters, bool [R, H, W]."""
        return self._leave_out(self.image.raters[:, self.number])

    @cached_property
    def mask(self) -> torch.Tensor:
        """The predicted mask, bool [H, W]."""
        return self._leave_out(self.image.masks[self.number])

    @cached_property
    def majority(self) -> torch.Tensor:
        """The pixels that more than half of the raters marked, bool [H, W]."""
        return self.raters.float().mean(0) > 0.5

    @property
    def shapes(self) -> Shapes:
        """The predicted mask and the majority's, on the host."""
        return self.image.shapes[self.number]

    def pixels(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values [..., H, W] of the pixels that count: [..., N], or as they are if all count."""
        return self.image.pixels(values)

    def _leave_out(self, masks: torch.Tensor) -> torch.Tensor:
        """Return masks [..., H, W] without the pixels that do not count."""
        return masks if self.image.valid is None else masks & self.image.valid

    @cached_property
    def overlap(self) -> tuple[torch.Tensor, torch.Tensor]:
        """IoU and Dice with the majority."""
        return overlap(self.mask, self.majority)

    @cached_property
    def calibration_errors(self) -> dict[str, torch.Tensor]:
        """The ECE of regions, mean over the raters for whom it is defined."""
        valid = self.image.valid
        rows = [calibration_errors(self.probability, self.mask, mask, valid) for mask in self.raters]
        return {name: torch.stack([row[name] for row in rows]).nanmean() for name in rows[0]}

    @cached_property
    def rater_ious(self) -> torch.Tensor:
        """The IoU of the predicted mask with each rater's, float64 [R]."""
        return iou_matrix(self.mask[None], self.raters)[0]


def iou(case: Case) -> torch.Tensor:
    """Return the IoU of the predicted mask with the majority of the raters."""
    return case.overlap[0]


def dice(case: Case) -> torch.Tensor:
    """Return the Dice of the predicted mask with the majority of the raters."""
    return case.overlap[1]


def brier_score(case: Case) -> torch.Tensor:
    """Return the Brier score, mean over the raters."""
    p = case.pixels(case.probability)
    return torch.stack([brier(p, case.pixels(mask)).double() for mask in case.raters]).mean()


def negative_log_likelihood(image: TestImage) -> torch.Tensor:
    """Return the negative log-likelihood of a pixel in nats, mean over the raters, and over classes that may overlap."""
    p, members = image.pixels(image.prediction.mean), image.sampled_masks
    raters = image.pixels(image.raters)
    if Labels.of(image.config).several:
        return torch.stack([categorical_nll(p, masks, members) for masks in raters]).mean()
    one_by_one = [nll(own, mask, members) for own, masks in zip(p, raters.unbind(1), strict=True) for mask in masks]
    return torch.stack(one_by_one).mean()


def true_pixels(case: Case) -> torch.Tensor:
    """Return the number of pixels in the majority's mask."""
    return case.majority.sum()


def predicted_pixels(case: Case) -> torch.Tensor:
    """Return the number of pixels in the predicted mask."""
    return case.mask.sum()


def shared_pixels(case: Case) -> torch.Tensor:
    """Return the number of pixels in both."""
    return (case.mask & case.majority).sum()


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
    return case.pixels(case.sd).double().square().mean()
