"""Test images as the registered metrics see them: one, and several of one size, stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from diffseg.config import Config
from diffseg.evaluation.ambiguity import count_shared, iou_matrix, pair_ious, split_pairs
from diffseg.evaluation.calibration import calibration_errors
from diffseg.evaluation.metrics import mean_over_pixels, overlap
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


@dataclass(frozen=True)
class TestImages:
    """Test images of one size: the ensemble's predictions, and the raters' masks that they are compared with.

    Shapes: B images, K classes, n members, R raters, H × W pixels. Pixels that do not count are outside of all masks. `mean`
    leaves them out.
    """

    __test__ = False  # pytest would collect it

    images: Sequence[TestImage]  # of one configuration; either all or none have `valid`

    def __len__(self) -> int:
        """Return B."""
        return len(self.images)

    @property
    def config(self) -> Config:
        """The trial's configuration."""
        return self.images[0].config

    @cached_property
    def probability(self) -> torch.Tensor:
        """The ensemble's probability of each class, float32 [B, K, H, W]."""
        return torch.stack([image.prediction.mean for image in self.images])

    @cached_property
    def sd(self) -> torch.Tensor:
        """The standard deviation over the ensemble's members, float32 [B, K, H, W]."""
        return torch.stack([image.prediction.sd for image in self.images])

    @cached_property
    def valid(self) -> torch.Tensor | None:
        """The pixels that count, bool [B, 1, H, W]; None if all do."""
        masks = [image.valid[None] for image in self.images if image.valid is not None]
        return torch.stack(masks) if masks else None

    @cached_property
    def samples(self) -> torch.Tensor:
        """The masks of the ensemble's members, bool [B, K, n, H, W]."""
        return self._leave_out(torch.stack([image.prediction.masks for image in self.images])).transpose(1, 2)

    @cached_property
    def raters(self) -> torch.Tensor:
        """The masks of the raters, bool [B, K, R, H, W]."""
        return self._leave_out(torch.stack([image.raters for image in self.images])).transpose(1, 2)

    @cached_property
    def mask(self) -> torch.Tensor:
        """The predicted masks, bool [B, K, H, W]."""
        decided = Labels.of(self.config).decide(self.probability, self.config.inference.threshold)
        return decided if self.valid is None else decided & self.valid

    @cached_property
    def majority(self) -> torch.Tensor:
        """The pixels that more than half of the raters marked, bool [B, K, H, W]."""
        count = self.raters.shape[2]
        return self.raters[:, :, 0] if count == 1 else 2 * self.raters.sum(2) > count

    @property
    def sampled_masks(self) -> int | None:
        """The number of sampled masks behind the probability; None if the members are probabilities, as E1's are."""
        sampled = self.config.experiment == "e2" or self.config.inference.merge != "mean"
        return self.config.inference.ensemble if sampled else None

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean [B, …] of values [B, …, H, W] over the pixels that count."""
        return mean_over_pixels(values, self.valid_like(values))

    def valid_like(self, values: torch.Tensor) -> torch.Tensor | None:
        """Return the pixels that count, bool [B, 1, …, H, W] with as many dimensions as the values; None if all do."""
        if self.valid is None:
            return None
        return self.valid.reshape(len(self), *[1] * (values.ndim - 3), *values.shape[-2:])

    @cached_property
    def pixels(self) -> torch.Tensor:
        """The number of pixels that count, float64 [B, 1]."""
        height, width = self.probability.shape[-2:]
        if self.valid is None:
            return self.probability.new_full((len(self), 1), height * width, dtype=torch.float64)
        return self.valid.sum((-2, -1)).double()

    @cached_property
    def shapes(self) -> tuple[tuple[Shapes, ...], ...]:
        """The predicted mask and the majority's of each class [K] of each image [B], on the host."""
        pairs = torch.stack([self.mask, self.majority], 2).cpu().numpy()
        return tuple(
            tuple(Shapes.crop(predicted, true, image.instances, image.spacing) for predicted, true in own)
            for image, own in zip(self.images, pairs, strict=True)
        )

    @cached_property
    def overlap(self) -> tuple[torch.Tensor, torch.Tensor]:
        """IoU and Dice with the majority, float64 [B, K]."""
        return overlap(self.mask, self.majority)

    @cached_property
    def calibration_errors(self) -> dict[str, torch.Tensor]:
        """The ECE of regions, mean over the raters for whom it is defined, float64 [B, K]."""
        p, predicted = self.probability[:, :, None], self.mask[:, :, None]
        found = calibration_errors(p, predicted, self.raters, self.valid_like(p))
        return {name: errors.nanmean(2) for name, errors in found.items()}

    @cached_property
    def rater_ious(self) -> torch.Tensor:
        """The IoU of the predicted masks with each rater's, float64 [B, K, R]."""
        return iou_matrix(self.mask[:, :, None], self.raters)[:, :, 0]

    @cached_property
    def shared(self) -> torch.Tensor:
        """The number of pixels that two masks share, of the samples and then the raters, float64 [B, K, n + R, n + R]."""
        return count_shared(torch.cat([self.samples, self.raters], 2))

    @cached_property
    def distances(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """1 − IoU between samples and raters, among samples, among raters; the mean over the classes, float64 [B, …]."""
        return split_pairs((1 - pair_ious(self.shared)).mean(1), self.samples.shape[2])

    def _leave_out(self, masks: torch.Tensor) -> torch.Tensor:
        """Return masks [B, …, H, W] without the pixels that do not count."""
        valid = self.valid_like(masks)
        return masks if valid is None else masks & valid
