"""The Triton kernel of `diffseg.prediction.philox`."""

import torch
import triton
import triton.language as tl

BLOCK = 1024  # pixels that a program draws


@triton.jit
def _draw(keys, members, corners, found, word, channels, size, BLOCK: tl.constexpr):
    """Draw up to four channels of some pixels of a window: programs are [B, blocks of pixels, groups of channels]."""
    window, group = tl.program_id(0), tl.program_id(2)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = (tl.load(corners + 2 * window) + pixel // size).to(tl.uint32)
    column = (tl.load(corners + 2 * window + 1) + pixel % size).to(tl.uint32)
    member = tl.zeros_like(row) + tl.load(members + window).to(tl.uint32)
    draw = tl.zeros_like(row) + (word + group).to(tl.uint32)
    a, b, c, d = tl.philox(tl.load(keys + window), column, row, member, draw)
    w, x = _box_muller(a, b)
    y, z = _box_muller(c, d)
    channel = 4 * group
    inside = pixel < size * size
    place = found + (window.to(tl.int64) * channels + channel) * size * size + pixel
    tl.store(place, w, inside)
    tl.store(place + size * size, x, inside & (channel + 1 < channels))
    tl.store(place + 2 * size * size, y, inside & (channel + 2 < channels))
    tl.store(place + 3 * size * size, z, inside & (channel + 3 < channels))


@triton.jit
def _box_muller(first, second):
    """Return two values of N(0, 1), given two words of 32 bits."""
    uniform = first.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2⁻³², 2⁻³³
    radius = tl.sqrt(-2.0 * tl.log(uniform))
    angle = second.to(tl.float32) * 1.4629180792671596e-09  # 2π / 2³²
    return radius * tl.cos(angle), radius * tl.sin(angle)


def launch(
    keys: torch.Tensor, members: torch.Tensor, corners: torch.Tensor, draw: int, channels: int, size: int
) -> torch.Tensor:
    """Return windows of noise, as `diffseg.prediction.philox.normal_windows`."""
    found = torch.empty(len(keys), channels, size, size, device=keys.device)
    groups = -(-channels // 4)
    grid = len(keys), triton.cdiv(size * size, BLOCK), groups
    _draw[grid](keys, members, corners.contiguous(), found, draw * groups, channels, size, BLOCK)
    return found
