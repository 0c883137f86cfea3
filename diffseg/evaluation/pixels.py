"""Metrics of the pixels of test images, which the registry's entries name. Each returns float64 or int64 [B, K]."""

import torch

from diffseg.evaluation.bands import band_width, inner_band
from diffseg.evaluation.images import TestImages
from diffseg.evaluation.metrics import brier, categorical_nll, nll
from diffseg.labels.labels import Labels


def iou(images: TestImages) -> torch.Tensor:
    """Return the IoU of the predicted mask with the majority of the raters."""
    return images.overlap[0]


def dice(images: TestImages) -> torch.Tensor:
    """Return the Dice of the predicted mask with the majority of the raters."""
    return images.overlap[1]


def boundary_iou(images: TestImages) -> torch.Tensor:
    """Return the IoU of the bands inside of both contours."""
    width = band_width((images.mask.shape[-2], images.mask.shape[-1]))
    predicted, true = (inner_band(masks, width) for masks in (images.mask, images.majority))
    both, either = ((predicted & true).sum((-2, -1)), (predicted | true).sum((-2, -1)))
    return torch.where(either > 0, both.double() / either, 1.0)


def brier_score(images: TestImages) -> torch.Tensor:
    """Return the Brier score, mean over the raters."""
    p = images.probability[:, :, None]
    return brier(p, images.raters, images.valid_like(p)).mean(2)


def negative_log_likelihood(images: TestImages) -> torch.Tensor:
    """Return the negative log-likelihood of a pixel in nats, mean over the raters, and over classes that may overlap: [B]."""
    members = images.sampled_masks
    if Labels.of(images.config).several:
        masks = images.raters.transpose(1, 2)  # [B, R, K, H, W]
        return categorical_nll(images.probability[:, None], masks, members, images.valid).mean(1)
    p = images.probability[:, :, None]
    return nll(p, images.raters, members, images.valid_like(p)).flatten(1).mean(1)


def true_pixels(images: TestImages) -> torch.Tensor:
    """Return the number of pixels in the majority's mask."""
    return images.majority.sum((-2, -1))


def predicted_pixels(images: TestImages) -> torch.Tensor:
    """Return the number of pixels in the predicted mask."""
    return images.mask.sum((-2, -1))


def shared_pixels(images: TestImages) -> torch.Tensor:
    """Return the number of pixels in both."""
    return (images.mask & images.majority).sum((-2, -1))


def ece_image(images: TestImages) -> torch.Tensor:
    """Return the calibration error of all pixels of the image."""
    return images.calibration_errors["ece_image"]


def ece_boundary(images: TestImages) -> torch.Tensor:
    """Return the calibration error of the band around the mask's contour."""
    return images.calibration_errors["ece_boundary"]


def ece_foreground(images: TestImages) -> torch.Tensor:
    """Return the calibration error of the mask, the band around its contour, and the predicted foreground."""
    return images.calibration_errors["ece_foreground"]


def variance(images: TestImages) -> torch.Tensor:
    """Return the variance of the ensemble's members, mean over the pixels."""
    return images.mean(images.sd.double().square())
