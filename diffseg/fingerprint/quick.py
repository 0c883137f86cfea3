"""The mask error over the noise levels without any training: the best guess from similar training masks.

The posterior mean of x0 under the empirical distribution of examples x_k has a closed form (Karras et al., 2022, App. B.3):
Σ w_k x_k with w = softmax(−‖x_t − α x_k‖²/(2σ²)). Its error is at least that of the best predictor.

- With whole masks as examples, it comes close to the best at high noise, where only place and size remain to be guessed.
- With patches, it comes close at low noise: there are enough of them to find a similar one.
- Averages of s × s pixels keep what coarse patches contain and divide the noise's variance by s².

At every noise level the least error of these predictors is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.data.partition import interleave_groups
from diffseg.diffusion.schedules import log_snr
from diffseg.randomness import generator
from diffseg.training.batches import Batches, draw_corners, draw_rater

PATCHES = ((1, 3), (1, 5), (2, 7), (2, 11), (4, 11), (4, 15))  # (s, side of a patch in blocks of s × s px)
BLOCK = 4  # px a side; all predictors are compared on the same blocks of test masks, or on s × s px of each
EXAMPLES = 32768  # patches in each dictionary
MASKS = 4096  # whole masks
QUERIES = 2048  # blocks of test masks
WINDOWS = 256  # windows of test masks
CHUNK = 512  # queries at once


@torch.inference_mode()
def estimate_mask_error(
    dataset: Dataset, config: Config, on_batch: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Estimate the mask error of a trial of E3 with this configuration.

    Return rows of step (0), t, log_snr and mask_error, as `measure_noise_errors` returns them for a trained network. Examples are
    the training masks as E3 sees them, augmented. Errors are those of the test split's masks.
    """
    draw = generator("cpu", config.seed, "patches")
    batches = Batches(dataset.train, config)
    examples = torch.cat([batches(step)[1] for step in range(-(-MASKS // config.training.batch))])[:MASKS] * 2 - 1
    which = interleave_groups(dataset.test)[torch.arange(WINDOWS) % len(dataset.test.names)]
    places = draw_corners(dataset.test, which, config.data.size, draw)
    masks = draw_rater(dataset.test.cut_windows(which, places, config.data.size)[1], draw).float() * 2 - 1
    t = torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64) / config.inference.timesteps
    levels = log_snr(t, config.diffusion)
    queries = _Places.draw(QUERIES, masks, BLOCK, draw)
    found = [_errors_of_masks(examples, masks, queries, levels, draw)]
    for size, side in PATCHES:
        on_batch()
        known = _Places.draw(EXAMPLES, examples, size, draw)
        found.append(
            _errors_of_patches(examples, known, masks, queries.draw_within(BLOCK, size, draw), size, side, levels, draw)
        )
    errors = torch.stack(found).amin(0)
    columns = zip(t.tolist(), levels.tolist(), errors.tolist(), strict=True)
    return [{"step": 0, "t": time, "log_snr": level, "mask_error": error} for time, level, error in columns]


@dataclass(frozen=True)
class _Places:
    """Square blocks of masks: the number of the mask, and the top and left of the block, int64 [N] each."""

    mask: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor

    @classmethod
    def draw(cls, count: int, masks: torch.Tensor, size: int, draw: torch.Generator) -> "_Places":
        """Draw blocks of size × size px anywhere in masks [M, 1, S, S], equally many of each."""
        top, left = (torch.randint(masks.shape[-1] - size + 1, (count,), generator=draw) for _ in range(2))
        return cls(torch.arange(count) % len(masks), top, left)

    def draw_within(self, size: int, smaller: int, draw: torch.Generator) -> "_Places":
        """Draw a block of smaller × smaller px anywhere in each block of size × size px."""
        down, right = (torch.randint(size - smaller + 1, self.top.shape, generator=draw) for _ in range(2))
        return _Places(self.mask, self.top + down, self.left + right)


def _errors_of_masks(
    examples: torch.Tensor, masks: torch.Tensor, queries: _Places, levels: torch.Tensor, draw: torch.Generator
) -> torch.Tensor:
    """Return the errors [L] at log-SNRs [L] of the upper left pixels of the queries, predicted from whole masks.

    examples, masks: [M, 1, S, S] from −1 to 1, of training and of testing.
    """
    noise = torch.randn(masks[:, 0].shape, generator=draw).flatten(1)
    known, pixel = examples.flatten(1), queries.top * masks.shape[-1] + queries.left
    sums = torch.zeros(len(levels), dtype=torch.float64)
    for mask in sorted(set(queries.mask.tolist())):
        pixels = pixel[queries.mask == mask]
        one = masks[mask].flatten()[None]
        sums += len(pixels) * _errors(known, known[:, pixels], one, one[:, pixels], noise[mask, None], 1, levels)
    return (sums / len(pixel)).float()


def _errors_of_patches(
    examples: torch.Tensor, known: _Places, masks: torch.Tensor, queries: _Places, size: int, side: int,
    levels: torch.Tensor, draw: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Return the errors [L] of blocks of size × size px, predicted from patches of side × side such blocks around them.

    examples, masks: [M, 1, S, S] from −1 to 1, of training and of testing. known, queries: the blocks of either.
    """
    patches, middles = _cut_patches(examples, known, size, side)
    noisy, wanted = _cut_patches(masks, queries, size, side)
    noise = torch.randn(noisy.shape, generator=draw)
    sums = torch.zeros(len(levels), dtype=torch.float64)
    for start in range(0, len(noisy), CHUNK):
        part = slice(start, start + CHUNK)
        errors = _errors(patches, middles, noisy[part], wanted[part], noise[part], size, levels)
        sums += len(noisy[part]) * errors
    return (sums / len(noisy)).float()


def _cut_patches(masks: torch.Tensor, places: _Places, size: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut patches around places of masks [M, 1, S, S].

    Return their means over size × size blocks, [N, side²], and the pixels of their middle blocks, [N, size²]. Beyond the
    border a mask is 0, which favours neither class.
    """
    reach = side // 2 * size
    blocks = F.avg_pool2d(F.pad(masks, (reach,) * 4), size, stride=1)[:, 0]
    mask, top, left = (values[:, None, None] for values in (places.mask, places.top, places.left))
    steps, inner = torch.arange(side) * size, torch.arange(size)
    patches = blocks[mask, top + steps[:, None], left + steps]
    middles = masks[mask, 0, top + inner[:, None], left + inner]
    return patches.flatten(1), middles.flatten(1)


def _errors(
    known: torch.Tensor, known_middles: torch.Tensor, clean: torch.Tensor, middles: torch.Tensor, noise: torch.Tensor,
    size: int, levels: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Return the mean squared errors [L] of the posterior means of middles [Q, M] at log-SNRs [L].

    The predictor sees x_t = α x + σ/size n of the patches `clean` [Q, D], and knows patches [K, D] with middles [K, M]. The
    noise n [Q, D] is the same at all levels, so that the curve is smooth.
    """
    of_signal, of_noise = clean @ known.T, noise @ known.T
    of_signal -= known.square().sum(1) / 2
    found, likeness, weights = [], torch.empty_like(of_noise), torch.empty_like(of_noise)
    for level in levels:  # in place: fresh memory for such arrays costs more time than the computation
        alpha, sigma = float(torch.sigmoid(level).sqrt()), float(torch.sigmoid(-level).sqrt()) / size
        torch.mul(of_signal, (alpha / sigma) ** 2, out=likeness).add_(of_noise, alpha=alpha / sigma)
        torch.softmax(likeness, 1, out=weights)
        found.append((weights @ known_middles - middles).square().mean())
    return torch.stack(found)
