"""Normal noise counted out by Philox4x32-10 (Salmon et al., 2011): each value depends on a key and on its own place alone.

There are no generators and no order of draws, so that one kernel draws any parts of any maps.
"""

import math
from importlib.util import find_spec

import torch

MASK = 0xFFFFFFFF
FACTORS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def normal_windows(
    keys: torch.Tensor,
    members: torch.Tensor,
    corners: torch.Tensor,
    draw: int,
    channels: int,
    size: int,
) -> torch.Tensor:
    """Return windows of maps of N(0, 1), float32 [B, channels, size, size].

    A value depends on the key of its map, its member, the draw, its channel, its row and its column in the map.

    Args:
        keys: Of the maps, 0 to 2⁶³ − 1, int64 [B].
        members: Numbers of the members, int64 [B].
        corners: The windows' top and left in their maps, int64 [B, 2].
        draw: The number of the draw, 0 or more.
        channels: Channels of the maps.
        size: Side of the windows, px.
    """
    if keys.device.type == "cuda" and find_spec("triton"):
        from diffseg.prediction.philox_kernel import launch

        return launch(keys, members, corners, draw, channels, size)
    return compute_windows(keys, members, corners, draw, channels, size)


def compute_windows(
    keys: torch.Tensor, members: torch.Tensor, corners: torch.Tensor, draw: int, channels: int, size: int
) -> torch.Tensor:
    """Return what the kernel returns, but for rounding, by operations of torch; see `normal_windows`."""
    pixels = torch.arange(size, device=keys.device)
    top, left = corners.unbind(1)
    rows, columns = (top[:, None] + pixels)[:, :, None], (left[:, None] + pixels)[:, None, :]
    groups = -(-channels // 4)  # the generator returns four values at once, here of four channels
    found = []
    for group in range(groups):
        words = philox(
            (columns, rows, members[:, None, None], torch.full_like(keys, draw * groups + group)[:, None, None]),
            keys[:, None, None],
        )
        found += [*box_muller(words[0], words[1]), *box_muller(words[2], words[3])]
    return torch.stack(found[:channels], dim=1)


def philox(counter: tuple[torch.Tensor, ...], key: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return four random words of 32 bits, given a counter of four of them and a key of 64 bits; all are int64, and broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK, key >> 32 & MASK
    for _ in range(ROUNDS):
        first, second = (
            c0 * FACTORS[0],
            c2 * FACTORS[1],
        )  # int64 keeps all 64 bits: the upper 32 and the lower 32 follow
        c0, c1, c2, c3 = (second >> 32 & MASK) ^ c1 ^ k0, second & MASK, (first >> 32 & MASK) ^ c3 ^ k1, first & MASK
        k0, k1 = k0 + KEY_STEPS[0] & MASK, k1 + KEY_STEPS[1] & MASK
    return c0, c1, c2, c3


def box_muller(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two independent values of N(0, 1), float32, given two uniform words of 32 bits (Box & Muller, 1958)."""
    uniform = first.float() * 2.0**-32 + 2.0**-33  # in (0, 1]
    radius, angle = (-2 * uniform.log()).sqrt(), second.float() * (2 * math.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin()
