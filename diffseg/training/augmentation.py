"""Augmentation of whole batches on their device. Every sample has its own random draws."""

import math

import torch
import torch.nn.functional as F

from diffseg.config import Augment

FLIP_COUNTS = {"none": 0, "horizontal": 1, "both": 2, "symmetries": 3}  # of the three flips of `apply_flips`
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma


def augment_batch(
    images: torch.Tensor, masks: torch.Tensor, augment: Augment, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, rotate and zoom images and masks alike, and recolour the images.

    Args:
        images: [B, C, S, S] in [−1, 1].
        masks: [B, 1, S, S], numbers of labels.
        augment: The kinds of augmentation and their strengths.
        draw: The source of the random draws.

    Returns:
        (images, masks) of the same shapes and ranges.
    """
    count, device = len(images), images.device
    if augment.flips != "none":
        coins = torch.rand(3, count, generator=draw, device=device) < 0.5
        coins[FLIP_COUNTS[augment.flips] :] = False
        images, masks = (apply_flips(x, coins) for x in (images, masks))
    if augment.degrees or augment.zoom != (1.0, 1.0):
        uniform = torch.rand(2, count, generator=draw, device=device)
        images, masks = apply_affine(
            images,
            masks,
            (2 * uniform[0] - 1) * math.radians(augment.degrees),
            augment.zoom[0] + uniform[1] * (augment.zoom[1] - augment.zoom[0]),
        )
    strengths = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(strengths):
        limits = torch.tensor(strengths, device=device)[:, None]
        changes = (2 * torch.rand(4, count, generator=draw, device=device) - 1) * limits
        images = jitter_colours(images, *changes)
    return images, masks


def apply_flips(x: torch.Tensor, coins: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Flip samples [B, C, S, S] left–right, up–down and along the diagonal, each where its row of coins [3, B] is true.

    inverse undoes the flips of the same coins.
    """
    flips = (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2))
    steps = list(zip(coins[:, :, None, None, None], flips, strict=True))
    for coin, flip in reversed(steps) if inverse else steps:
        x = torch.where(coin, flip(x), x)
    return x


def apply_symmetry(x: torch.Tensor, which: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Turn or mirror square samples [B, C, S, S], each by one of the square's eight symmetries `which` [B], 0 to 7.

    Symmetry 0 leaves a sample as it is. inverse undoes the same symmetry.
    """
    return apply_flips(x, torch.stack([which & 1, which & 2, which & 4]).bool(), inverse)


def apply_affine(
    images: torch.Tensor, masks: torch.Tensor, angles: torch.Tensor, zooms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate images and masks about their middle by angles [B] (radians) and magnify them by zooms [B].

    Borders are mirrored. Images are interpolated bilinearly; masks take the nearest pixel.
    """
    cos, sin, zero = angles.cos() / zooms, angles.sin() / zooms, torch.zeros_like(angles)
    maps = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return images, masks


def jitter_colours(
    images: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Change the colours of images [B, C, H, W] in [−1, 1] by changes [B], in a fixed order.

    Brightness, contrast and saturation are multiplied by 1 + change; hue is turned by that share of a circle. This is
    torchvision's ColorJitter, but hue is turned about the grey axis of YIQ instead of HSV. Saturation and hue do not change
    images that have not three channels.
    """
    brightness, contrast, saturation = (value[:, None, None, None] for value in (brightness, contrast, saturation))
    x = ((images + 1) / 2 * (1 + brightness)).clamp(0, 1)
    middle = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * (1 + contrast)).clamp(0, 1)
    if images.shape[1] == 3:
        grey = _grey(x)
        x = _rotate_hue(grey + (x - grey) * (1 + saturation), hue).clamp(0, 1)
    return 2 * x - 1


def _grey(x: torch.Tensor) -> torch.Tensor:
    """Return the luma of three channels, or else the mean of the channels, [B, 1, H, W]."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(GREY, device=x.device)[:, None, None]).sum(1, keepdim=True)


def _rotate_hue(x: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """Rotate the colours of RGB images [B, 3, H, W] about the grey axis of YIQ by hue [B], shares of a circle."""
    to_yiq = torch.tensor([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], device=x.device)
    cos, sin = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()
    zero, one = torch.zeros_like(hue), torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", torch.linalg.inv(to_yiq) @ turn @ to_yiq, x)
