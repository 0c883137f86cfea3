"""Augmentation of whole batches on the device that holds them, each sample with draws of its own."""

import math

import torch
import torch.nn.functional as F

from diffseg.config import Augment

COINS = {"none": 0, "horizontal": 1, "both": 2, "symmetries": 3}  # of the three flips that make the square's symmetries
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma


def augmented(
    images: torch.Tensor, masks: torch.Tensor, augment: Augment, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """images [B, C, S, S] in [−1, 1] and masks [B, 1, S, S] of 0 and 1, turned and zoomed alike, images recoloured."""
    count, device = len(images), images.device
    if augment.flips != "none":
        coins = torch.rand(3, count, generator=draw, device=device) < 0.5
        coins[COINS[augment.flips] :] = False
        images, masks = (turned(x, coins) for x in (images, masks))
    if augment.degrees or augment.zoom != (1.0, 1.0):
        uniform = torch.rand(2, count, generator=draw, device=device)
        images, masks = affine(
            images,
            masks,
            (2 * uniform[0] - 1) * math.radians(augment.degrees),
            augment.zoom[0] + uniform[1] * (augment.zoom[1] - augment.zoom[0]),
        )
    strengths = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(strengths):
        limits = torch.tensor(strengths, device=device)[:, None]
        changes = (2 * torch.rand(4, count, generator=draw, device=device) - 1) * limits
        images = jittered(images, *changes)
    return images, masks


def turned(x: torch.Tensor, coins: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Samples [B, C, S, S], each flipped left–right, up–down, along the diagonal where coins [3, B] say so; or back."""
    flips = (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2))
    steps = list(zip(coins[:, :, None, None, None], flips, strict=True))
    for coin, flip in reversed(steps) if inverse else steps:
        x = torch.where(coin, flip(x), x)
    return x


def symmetry(x: torch.Tensor, which: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Square samples [B, C, S, S] each in the view that which [B] numbers, 0 (as it is) to 7; or back again."""
    return turned(x, torch.stack([which & 1, which & 2, which & 4]).bool(), inverse)


def affine(
    images: torch.Tensor, masks: torch.Tensor, angles: torch.Tensor, zooms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated about the middle by angles [B] (radians) and magnified by zooms [B], mirrored at the borders.

    Images are interpolated linearly, masks take the nearest.
    """
    cos, sin, zero = angles.cos() / zooms, angles.sin() / zooms, torch.zeros_like(angles)
    maps = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return tuple(
        F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)
        for x, mode in ((images, "bilinear"), (masks, "nearest"))
    )


def jittered(
    images: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """images [B, C, H, W] in [−1, 1] with changes [B] of brightness, contrast, saturation (factors 1 + change) and hue.

    As torchvision's ColorJitter in a fixed order, but hue is turned about the grey axis of YIQ, not of HSV.
    Saturation and hue are left alone in images of other than three channels.
    """
    change = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    change = {key: value[:, None, None, None] for key, value in change.items()}
    x = ((images + 1) / 2 * (1 + change["brightness"])).clamp(0, 1)
    middle = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * (1 + change["contrast"])).clamp(0, 1)
    if images.shape[1] == 3:
        grey = _grey(x)
        x = _hue_turned(grey + (x - grey) * (1 + change["saturation"]), hue).clamp(0, 1)
    return 2 * x - 1


def _grey(x: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W]."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(GREY, device=x.device)[:, None, None]).sum(1, keepdim=True)


def _hue_turned(x: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    to_yiq = torch.tensor([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], device=x.device)
    cos, sin = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()
    zero, one = torch.zeros_like(hue), torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", torch.linalg.inv(to_yiq) @ turn @ to_yiq, x)
