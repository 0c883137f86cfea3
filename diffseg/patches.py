"""The mask error over the noise levels without any training: the best guess from training masks that look alike.

The posterior mean of x0 under the empirical distribution of some examples x_k is known in closed form (Karras et al., 2022,
App. B.3): Σ w_k x_k with w = softmax(−‖x_t − α x_k‖²/(2σ²)). Its error is no less than that of the best predictor. With
whole masks as examples it is near to it at much noise, where only place and size are left to guess; with patches, of which
there are enough to find a like one, at little noise. Averaging s × s pixels keeps what coarse patches have to tell and
divides the noise's variance by s². So at every noise level the least error of some such predictors is taken.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from diffseg.batches import Batches, one_rater, random_corners
from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.diffusion.schedules import log_snr
from diffseg.randomness import generator

PATCHES = ((1, 3), (1, 7), (2, 7), (4, 7))  # (s, side in blocks of s × s px)
EXAMPLES = 8192  # patches in each dictionary
MASKS = 4096  # whole masks
QUERIES = 2048  # patches of test masks, and pixels of whole ones, over which errors are averaged
WINDOWS = 256  # of the test masks


@torch.inference_mode()
def errors_without_training(
    dataset: Dataset, config: Config, on_batch: Callable[[], None] = lambda: None
) -> list[dict]:
    """Rows of step (0), t, log_snr and mask_error, as `errors_over_t` of an E3 trial with this configuration has them.

    Examples are the training masks as E3 sees them, augmented; errors are those of the held-out ones, the data set's test split.
    """
    draw = generator("cpu", config.seed, "patches")
    batches = Batches(dataset.train, config)
    examples = torch.cat([batches(step)[1] for step in range(-(-MASKS // config.training.batch))])[:MASKS] * 2 - 1
    which = torch.arange(WINDOWS) % len(dataset.test.names)
    places = random_corners(dataset.test, which, config.data.size, draw)
    masks = one_rater(dataset.test.windows(which, places, config.data.size)[1], draw).float() * 2 - 1
    t = torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64) / config.inference.timesteps
    levels = log_snr(t, config.diffusion)
    found = [_whole(examples, masks, levels, draw)]
    for size, side in PATCHES:
        on_batch()
        found.append(_patches(examples, masks, size, side, levels, draw))
    errors = torch.stack(found).amin(0)
    columns = zip(t.tolist(), levels.tolist(), errors.tolist(), strict=True)
    return [{"step": 0, "t": a, "log_snr": b, "mask_error": c} for a, b, c in columns]


def _whole(examples, masks, levels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    pixels = torch.randperm(masks[0].numel(), generator=draw)[:QUERIES]
    known, asked = examples.flatten(1), masks.flatten(1)
    return _errors(known, known[:, pixels], asked, asked[:, pixels], 1, levels, draw)


def _patches(examples, masks, size: int, side: int, levels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    known, known_middles = _cut(examples, size, side, EXAMPLES, draw)
    asked, middles = _cut(masks, size, side, QUERIES, draw)
    return _errors(known, known_middles, asked, middles, size, levels, draw)


def _cut(
    masks: torch.Tensor, size: int, side: int, count: int, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches [count, side²] of means over size × size blocks, pixels [count, size²] of their middle blocks) at random
    places of masks [N, 1, S, S]. Beyond the border it is 0, which tells nothing."""
    reach, length = side // 2 * size, masks.shape[-1]
    blocks = F.avg_pool2d(F.pad(masks, (reach,) * 4), size, stride=1)[:, 0]
    image, top, left = (
        torch.randint(end, (count, 1, 1), generator=draw) for end in (len(masks), length - size + 1, length - size + 1)
    )
    steps, inner = torch.arange(side) * size, torch.arange(size)
    patches = blocks[image, top + steps[:, None], left + steps]
    middles = masks[image, 0, top + inner[:, None], left + inner]
    return patches.flatten(1), middles.flatten(1)


def _errors(
    known, known_middles, asked, middles, size: int, levels: torch.Tensor, draw: torch.Generator
) -> torch.Tensor:
    """Mean squared errors [L] of the middles [Q, M] of asked patches [Q, D], seen at log-SNRs [L], from known ones [K, ·].

    x_t = α x + σ/size n, with one draw n for all levels, so that the curve is smooth.
    """
    noise = torch.randn(asked.shape, generator=draw)
    of_signal, of_noise, of_known = asked @ known.T, noise @ known.T, known.square().sum(1) / 2
    of_signal -= of_known
    found, likeness, weights = [], torch.empty_like(of_noise), torch.empty_like(of_noise)
    for level in levels:  # in place: fresh memory for such arrays costs more than what is computed in it
        alpha, sigma = float(torch.sigmoid(level).sqrt()), float(torch.sigmoid(-level).sqrt()) / size
        torch.mul(of_signal, (alpha / sigma) ** 2, out=likeness).add_(of_noise, alpha=alpha / sigma)
        torch.softmax(likeness, 1, out=weights)
        found.append((weights @ known_middles - middles).square().mean())
    return torch.stack(found)
