"""Triton kernels of group normalisation, with or without SiLU, on maps in channels-last.

torch's own copies such maps to channels-first and back, and autocast computes it and the activation in float32. Here a map
is read twice and written once, in its own precision; sums are float32, in a fixed order. Per program: one image, and BLOCKS ·
ROWS of its positions with all channels. `diffseg.networks.group_norm` is their twin.
"""

from typing import Any

import torch
import triton
import triton.language as tl

ELEMENTS = 4096  # of a block of a map, which lies in registers
BLOCKS = 4  # that a program reads one after the other


@triton.jit
def _moments(x, means, squares, positions, channels, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write each channel's mean and sum of squared deviations over a program's positions (Chan et al., 1983)."""
    image, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, COLUMNS)
    real = column < channels
    start = image.to(tl.int64) * positions
    mean = tl.zeros((COLUMNS,), tl.float32)
    square = tl.zeros((COLUMNS,), tl.float32)
    seen = 0.0
    for block in range(BLOCKS):
        row = (part * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & real[None, :]
        values = tl.load(x + (start + row)[:, None] * channels + column[None, :], inside, 0.0).to(tl.float32)
        count = tl.sum((row < positions).to(tl.float32), 0)
        own = tl.sum(values, 0) / tl.maximum(count, 1.0)
        deviation = tl.where(inside, values - own[None, :], 0.0)
        total = tl.maximum(seen + count, 1.0)
        difference = own - mean
        square += tl.sum(deviation * deviation, 0) + difference * difference * (seen * count / total)
        mean += difference * (count / total)
        seen += count
    place = (image * parts + part) * channels + column
    tl.store(means + place, mean, real)
    tl.store(squares + place, square, real)


@triton.jit
def _join_moments(
    means,
    squares,
    mean,
    scale,
    positions,
    channels,
    parts,
    eps,
    SPAN: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write a group's mean and the reciprocal of its standard deviation. SPAN: positions of a program of _moments."""
    image, group, groups = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    width = channels // groups
    column = tl.arange(0, WIDTH)
    place = image.to(tl.int64) * parts * channels + group * width
    total = tl.zeros((WIDTH,), tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (column < width)[None, :]
        count = tl.maximum(tl.minimum(positions - part * SPAN, SPAN), 0).to(tl.float32)
        own = tl.load(means + place + part[:, None] * channels + column[None, :], inside, 0.0)
        total += tl.sum(own * count[:, None], 0)
    size = positions * width
    center = tl.sum(total, 0) / size
    total = tl.zeros((WIDTH,), tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (column < width)[None, :]
        count = tl.maximum(tl.minimum(positions - part * SPAN, SPAN), 0).to(tl.float32)
        offset = place + part[:, None] * channels + column[None, :]
        own = tl.load(means + offset, inside, 0.0) - center
        found = tl.load(squares + offset, inside, 0.0) + own * own * count[:, None]
        total += tl.sum(tl.where(inside, found, 0.0), 0)
    tl.store(mean + image * groups + group, center)
    tl.store(scale + image * groups + group, 1.0 / tl.sqrt(tl.sum(total, 0) / size + eps))


@triton.jit
def _normalise(
    x, y, mean, scale, weight, bias, positions, channels, groups,
    SILU: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the normalised map, activated if SILU."""
    image, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    real = column < channels
    group = image * groups + column // (channels // groups)
    factor = tl.load(scale + group, real, 0.0) * tl.load(weight + column, real, 0.0).to(tl.float32)
    shift = tl.load(bias + column, real, 0.0).to(tl.float32) - tl.load(mean + group, real, 0.0) * factor
    start = image.to(tl.int64) * positions
    for block in range(BLOCKS):
        row = (part * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & real[None, :]
        place = (start + row)[:, None] * channels + column[None, :]
        found = tl.load(x + place, inside, 0.0).to(tl.float32) * factor[None, :] + shift[None, :]
        if SILU:
            found = found * tl.sigmoid(found)
        tl.store(y + place, found.to(y.dtype.element_ty), inside)


@triton.jit
def _slope(z, SILU: tl.constexpr):
    """Return the derivative of the activation at z."""
    if SILU:
        sigmoid = tl.sigmoid(z)
        return sigmoid * (1.0 + z * (1.0 - sigmoid))
    return tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def _load_block(x, dy, place, inside, center, factor, weight, bias, SILU: tl.constexpr):
    """Return x̂ and the gradient before the activation, of a block of a map."""
    normal = (tl.load(x + place, inside, 0.0).to(tl.float32) - center[None, :]) * factor[None, :]
    gradient = tl.load(dy + place, inside, 0.0).to(tl.float32)
    return normal, gradient * _slope(normal * weight[None, :] + bias[None, :], SILU)


@triton.jit
def _sum_gradients(
    x, dy, mean, scale, weight, bias, sums, products, positions, channels, groups,
    SILU: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write each channel's sums over a program's positions: of the gradient before the activation, and of it times x̂."""
    image, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, COLUMNS)
    real = column < channels
    group = image * groups + column // (channels // groups)
    center, factor = tl.load(mean + group, real, 0.0), tl.load(scale + group, real, 0.0)
    own_weight = tl.load(weight + column, real, 0.0).to(tl.float32)
    own_bias = tl.load(bias + column, real, 0.0).to(tl.float32)
    start = image.to(tl.int64) * positions
    total = tl.zeros((COLUMNS,), tl.float32)
    product = tl.zeros((COLUMNS,), tl.float32)
    for block in range(BLOCKS):
        row = (part * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & real[None, :]
        place = (start + row)[:, None] * channels + column[None, :]
        normal, gradient = _load_block(x, dy, place, inside, center, factor, own_weight, own_bias, SILU)
        total += tl.sum(gradient, 0)
        product += tl.sum(gradient * normal, 0)
    place = (image * parts + part) * channels + column
    tl.store(sums + place, total, real)
    tl.store(products + place, product, real)


@triton.jit
def _propagate(
    x, dy, dx, mean, scale, weight, bias, level, tilt, positions, channels, groups,
    SILU: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x. level and tilt: the group's means of the gradient of x̂, and of it times x̂."""
    image, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    real = column < channels
    group = image * groups + column // (channels // groups)
    center, factor = tl.load(mean + group, real, 0.0), tl.load(scale + group, real, 0.0)
    own_level, own_tilt = tl.load(level + group, real, 0.0), tl.load(tilt + group, real, 0.0)
    own_weight = tl.load(weight + column, real, 0.0).to(tl.float32)
    own_bias = tl.load(bias + column, real, 0.0).to(tl.float32)
    start = image.to(tl.int64) * positions
    for block in range(BLOCKS):
        row = (part * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & real[None, :]
        place = (start + row)[:, None] * channels + column[None, :]
        normal, gradient = _load_block(x, dy, place, inside, center, factor, own_weight, own_bias, SILU)
        gradient *= own_weight[None, :]
        found = factor[None, :] * (gradient - own_level[None, :] - normal * own_tilt[None, :])
        tl.store(dx + place, found.to(dx.dtype.element_ty), inside)


class NormaliseGroups(torch.autograd.Function):
    """Group normalisation of maps [B, C, H, W] in channels-last, followed by SiLU if asked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
        silu: bool,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Return the map in `dtype`, in channels-last."""
        x = x.contiguous(memory_format=torch.channels_last)
        (images, channels, *_), positions = x.shape, x.shape[2] * x.shape[3]
        rows, columns = _block(channels)
        parts = triton.cdiv(positions, BLOCKS * rows)
        means, squares = x.new_empty(2, images, parts, channels, dtype=torch.float32).unbind()
        mean, scale = x.new_empty(2, images, groups, dtype=torch.float32).unbind()
        y = torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)
        _moments[images, parts](x, means, squares, positions, channels, BLOCKS, rows, columns)
        width = triton.next_power_of_2(channels // groups)
        _join_moments[images, groups](
            means, squares, mean, scale, positions, channels, parts, eps, BLOCKS * rows, max(1, 1024 // width), width
        )
        _normalise[images, parts](
            x, y, mean, scale, weight, bias, positions, channels, groups, silu, BLOCKS, rows, columns
        )
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight, bias, mean, scale = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        (images, channels, *_), positions = x.shape, x.shape[2] * x.shape[3]
        rows, columns = _block(channels)
        parts = triton.cdiv(positions, BLOCKS * rows)
        partial = x.new_empty(2, images, parts, channels, dtype=torch.float32)
        sizes = positions, channels, ctx.groups, ctx.silu, BLOCKS, rows, columns
        _sum_gradients[images, parts](x, dy, mean, scale, weight, bias, *partial.unbind(), *sizes)
        sums = partial.sum(2)  # [2, B, C]
        in_groups = (sums * weight.float()).unflatten(2, (ctx.groups, -1)).sum(3) / (positions * channels // ctx.groups)
        dx = torch.empty_like(x)
        _propagate[images, parts](x, dy, dx, mean, scale, weight, bias, *in_groups.contiguous().unbind(), *sizes)
        of_bias, of_weight = sums.sum(1).to(weight.dtype)
        return dx, of_weight, of_bias, None, None, None, None


def _block(channels: int) -> tuple[int, int]:
    """Return (positions, channels) of a block; both are powers of two, as Triton needs them."""
    columns = triton.next_power_of_2(channels)
    return max(1, ELEMENTS // columns), columns
