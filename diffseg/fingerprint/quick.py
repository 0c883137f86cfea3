"""The mask error over the noise levels without any training: the best guess from training masks that look alike.

The posterior mean of x0 under the empirical distribution of some examples x_k is known in closed form (Karras et al., 2022,
App. B.3): Σ w_k x_k with w = softmax(−‖x_t − α x_k‖²/(2σ²)). Its error is no less than that of the best predictor. With
whole masks as examples it is near to it at much noise, where only place and size are left to guess; with patches, of which
there are enough to find a like one, at little noise. Averaging s × s pixels keeps what coarse patches have to tell and
divides the noise's variance by s². So at every noise level the least error of some such predictors is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.data.partition import interleave_groups
from diffseg.diffusion.schedules import log_snr
from diffseg.randomness import generator
from diffseg.training.batches import Batches, draw_corners, draw_rater

PATCHES = ((1, 3), (1, 5), (2, 7), (2, 11), (4, 11), (4, 15))  # (s, side in blocks of s × s px)
BLOCK = 4  # px; errors are averaged over the same blocks of test masks, or a part of each of s × s px
EXAMPLES = 32768  # patches in each dictionary
MASKS = 4096  # whole masks
QUERIES = 2048  # blocks of test masks
WINDOWS = 256  # test masks, or windows of them
CHUNK = 512  # queries at once


@torch.inference_mode()
def estimate_mask_error(dataset: Dataset, config: Config, on_batch: Callable[[], None] = lambda: None) -> list[dict]:
    """Rows of step (0), t, log_snr and mask_error, as `measure_noise_errors` of an E3 trial with this configuration has them.

    Examples are the training masks as E3 sees them, augmented; errors are those of the held-out ones, the data set's test split.
    """
    draw = generator("cpu", config.seed, "patches")
    batches = Batches(dataset.train, config)
    examples = torch.cat([batches(step)[1] for step in range(-(-MASKS // config.training.batch))])[:MASKS] * 2 - 1
    which = interleave_groups(dataset.test)[torch.arange(WINDOWS) % len(dataset.test.names)]
    places = draw_corners(dataset.test, which, config.data.size, draw)
    masks = draw_rater(dataset.test.cut_windows(which, places, config.data.size)[1], draw).float() * 2 - 1
    t = torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64) / config.inference.timesteps
    levels = log_snr(t, config.diffusion)
    asked = _Places.drawn(QUERIES, masks, BLOCK, draw)
    found = [_whole(examples, masks, asked, levels, draw)]
    for size, side in PATCHES:
        on_batch()
        known = _Places.drawn(EXAMPLES, examples, size, draw)
        found.append(_patches(examples, known, masks, asked.within(BLOCK, size, draw), size, side, levels, draw))
    errors = torch.stack(found).amin(0)
    columns = zip(t.tolist(), levels.tolist(), errors.tolist(), strict=True)
    return [{"step": 0, "t": a, "log_snr": b, "mask_error": c} for a, b, c in columns]


@dataclass(frozen=True)
class _Places:
    """Upper left corners of square blocks of masks: which mask, top and left, each [N]."""

    mask: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor

    @classmethod
    def drawn(cls, count: int, masks: torch.Tensor, size: int, draw: torch.Generator) -> "_Places":
        """As many of every mask [M, 1, S, S] as of another, anywhere in it."""
        top, left = (torch.randint(masks.shape[-1] - size + 1, (count,), generator=draw) for _ in range(2))
        return cls(torch.arange(count) % len(masks), top, left)

    def within(self, size: int, smaller: int, draw: torch.Generator) -> "_Places":
        """A smaller block anywhere in each block of that size."""
        down, right = (torch.randint(size - smaller + 1, self.top.shape, generator=draw) for _ in range(2))
        return _Places(self.mask, self.top + down, self.left + right)


def _whole(examples, masks, asked: _Places, levels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Errors of the upper left pixels of blocks, from masks as a whole."""
    noise = torch.randn(masks[:, 0].shape, generator=draw).flatten(1)
    known, pixel = examples.flatten(1), asked.top * masks.shape[-1] + asked.left
    sums = torch.zeros(len(levels), dtype=torch.float64)
    for mask in asked.mask.unique():
        pixels = pixel[asked.mask == mask]
        one = masks[mask].flatten()[None]
        sums += len(pixels) * _errors(known, known[:, pixels], one, one[:, pixels], noise[mask, None], 1, levels)
    return (sums / len(pixel)).float()


def _patches(
    examples, known: _Places, masks, asked: _Places, size: int, side: int, levels: torch.Tensor, draw: torch.Generator
) -> torch.Tensor:
    """Errors of blocks of size × size px, from patches of side × side such blocks around them."""
    patches, middles = _cut(examples, known, size, side)
    noisy, wanted = _cut(masks, asked, size, side)
    noise = torch.randn(noisy.shape, generator=draw)
    sums = torch.zeros(len(levels), dtype=torch.float64)
    for a, b, c in zip(noisy.split(CHUNK), wanted.split(CHUNK), noise.split(CHUNK), strict=True):
        sums += len(a) * _errors(patches, middles, a, b, c, size, levels)
    return (sums / len(noisy)).float()


def _cut(masks: torch.Tensor, places: _Places, size: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches [N, side²] of means over size × size blocks, pixels [N, size²] of their middle blocks) around places of masks
    [M, 1, S, S]. Beyond the border it is 0, which tells nothing."""
    reach = side // 2 * size
    blocks = F.avg_pool2d(F.pad(masks, (reach,) * 4), size, stride=1)[:, 0]
    mask, top, left = (values[:, None, None] for values in (places.mask, places.top, places.left))
    steps, inner = torch.arange(side) * size, torch.arange(size)
    patches = blocks[mask, top + steps[:, None], left + steps]
    middles = masks[mask, 0, top + inner[:, None], left + inner]
    return patches.flatten(1), middles.flatten(1)


def _errors(known, known_middles, asked, middles, noise, size: int, levels: torch.Tensor) -> torch.Tensor:
    """Mean squared errors [L] of the middles [Q, M] of asked patches [Q, D], seen at log-SNRs [L], from known ones [K, ·].

    x_t = α x + σ/size n, with one noise n [Q, D] for all levels, so that the curve is smooth.
    """
    of_signal, of_noise = asked @ known.T, noise @ known.T
    of_signal -= known.square().sum(1) / 2
    found, likeness, weights = [], torch.empty_like(of_noise), torch.empty_like(of_noise)
    for level in levels:  # in place: fresh memory for such arrays costs more than what is computed in it
        alpha, sigma = float(torch.sigmoid(level).sqrt()), float(torch.sigmoid(-level).sqrt()) / size
        torch.mul(of_signal, (alpha / sigma) ** 2, out=likeness).add_(of_noise, alpha=alpha / sigma)
        torch.softmax(likeness, 1, out=weights)
        found.append((weights @ known_middles - middles).square().mean())
    return torch.stack(found)
