"""Bands along the contours of masks, on the device of the masks."""

import math

import torch
import torch.nn.functional as F

BAND = 0.02  # of the image's diagonal: how far a band reaches from the contour (Cheng et al., 2021)


def band_width(size: tuple[int, int]) -> int:
    """Return the width of a band in pixels, given the image's height and width."""
    return max(1, round(BAND * math.hypot(*size)))


def dilate(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Return boolean masks [..., H, W] with all pixels at most `reach` rows and columns from them."""
    found = masks.to(torch.uint8)
    for dim, pad in ((-1, (reach, reach)), (-2, (0, 0, reach, reach))):
        found, done, width = F.pad(found, pad), 1, 2 * reach + 1
        while done < width:  # each pixel holds the union of `done` pixels from it on
            step = min(done, width - done)
            length = found.shape[dim] - step
            found = found.narrow(dim, 0, length) | found.narrow(dim, step, length)
            done += step
    return found.bool()


def inner_band(masks: torch.Tensor, width: int) -> torch.Tensor:
    """Return the pixels of boolean masks [..., H, W] at most `width` rows and columns inside their contour.

    What lies around the image is outside of the masks.
    """
    outside = F.pad(~masks, (1, 1, 1, 1), value=True)
    return masks & dilate(outside, width)[..., 1:-1, 1:-1]
