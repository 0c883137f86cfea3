"""The mask error over the noise levels without any training: the best guess from similar training masks.

The posterior mean of x0 under the empirical distribution of examples x_k has a closed form (Karras et al., 2022, App. B.3):
Σ w_k x_k with w = softmax(−‖x_t − α x_k‖²/(2σ²)). Its error is at least that of the best predictor.

- With whole masks as examples, it comes close to the best at high noise, where only place and size remain to be guessed.
- With patches, it comes close at low noise: there are enough of them to find a similar one.
- Averages of s × s pixels keep what coarse patches contain and divide the noise's variance by s².

At every noise level the least error of these predictors is taken. All are asked at each COARSE-th level; between two of these,
those from the best one at the first to the best one at the second, since with more noise larger patches are best.

x_t is the noisy signal that E3 sees, whatever the coding, with the channels of all classes. What is guessed are the masks of the
classes, in ±1. So one likeness of x_t to the examples serves all classes, and several classes cost little more than one.
As for E3, ignored pixels look like pixels outside of all classes, and count in no error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.data.partition import interleave_groups
from diffseg.diffusion.schedules import log_snr
from diffseg.errors import UserError
from diffseg.labels.labels import Labels
from diffseg.randomness import generator
from diffseg.rows import Row
from diffseg.threads import limited_threads
from diffseg.training.batches import Batches, draw_corners, draw_rater

PATCHES = ((1, 3), (1, 5), (2, 7), (2, 11), (4, 11), (4, 15))  # (s, side of a patch in blocks of s × s px)
BLOCK = 4  # px a side; all predictors are compared on the same blocks of test masks, or on s × s px of each
EXAMPLES = 32768  # patches in each dictionary
MASKS = 4096  # whole masks
QUERIES = 2048  # blocks of test masks
WINDOWS = 256  # windows of test masks
CHUNK = 512  # queries at once
COARSE = 4  # every how many levels all predictors are asked
ROUNDS = 2 * (1 + len(PATCHES))  # how often on_batch is called

_Predictor = Callable[[torch.Tensor], torch.Tensor]  # log-SNRs [L] → mean squared errors [L, K]


@limited_threads(1)  # beside other work, several threads wait for each other: two took ten times as long as one
@torch.inference_mode()
def estimate_mask_error(dataset: Dataset, config: Config, on_batch: Callable[[], None] = lambda: None) -> list[Row]:
    """Estimate the mask error of a trial of E3 with this configuration.

    Return rows of step (0), t, log_snr, class and mask_error, as `measure_noise_errors` returns them for a trained network.
    Examples are the training masks as E3 sees them, augmented. Errors are those of the test split's masks.

    Raises UserError if all the pixels that it draws from the test split are ignored ones.
    """
    labels = Labels.of(config)
    draw = generator("cpu", config.seed, "patches")
    batches = Batches(dataset.train, config)
    numbers = torch.cat([batches(step)[1] for step in range(-(-MASKS // config.training.batch))])[:MASKS]
    examples = _Signals.of(numbers, labels)
    which = interleave_groups(dataset.test)[torch.arange(WINDOWS) % len(dataset.test.names)]
    places = draw_corners(dataset.test, which, config.data.size, draw)
    numbers = draw_rater(dataset.test.cut_windows(which, places, config.data.size)[1], draw).float()
    masks = _Signals.of(numbers, labels)
    t = torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64) / config.inference.timesteps
    levels = log_snr(t, config.diffusion)
    queries = _Places.draw(QUERIES, numbers, BLOCK, draw)
    from_masks, predictors = _predict_from_masks(examples, masks, queries, draw), []
    for size, side in PATCHES:
        known = _Places.draw(EXAMPLES, examples.signal, size, draw)
        predictors.append(
            _predict_from_patches(examples, known, masks, queries.draw_within(BLOCK, size, draw), size, side, draw)
        )
    errors = _find_least_errors([*predictors, from_masks], levels, on_batch)
    if errors.isnan().any():
        raise UserError(
            f"data set {dataset.name}: all pixels of the masks that were drawn to measure the fingerprint are ignored ones "
            "(data.ignore): leave out --quick, or ignore fewer"
        )
    if labels.classes.count > 1:
        errors = torch.cat([errors.mean(1, keepdim=True), errors], dim=1)
    rows: list[Row] = []
    for name, column in zip(labels.classes.rows, errors.T.tolist(), strict=True):
        columns = zip(t.tolist(), levels.tolist(), column, strict=True)
        rows += [
            {"step": 0, "t": time, "log_snr": level, "class": name, "mask_error": error}
            for time, level, error in columns
        ]
    return rows


@dataclass(frozen=True)
class _Signals:
    """Masks as signals of their coding, and what a predictor guesses of them."""

    signal: torch.Tensor  # [M, C, S, S]
    middle: float  # of the signal's range, which favours no class
    classes: torch.Tensor  # bool [M, K, S, S]: the pixels of each class
    valid: torch.Tensor | None  # bool [M, 1, S, S]: the pixels that count; None if all do

    @classmethod
    def of(cls, numbers: torch.Tensor, labels: Labels) -> "_Signals":
        """Return the signals of stored masks [M, 1, S, S]."""
        masks = labels.read(numbers)
        signal = labels.coding.encode(masks.channels, masks.valid)
        middle = (labels.coding.low + labels.coding.high) / 2
        return cls(signal, middle, masks.channels[:, labels.foreground].bool(), masks.valid)


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

    def cut(self, masks: torch.Tensor, size: int) -> torch.Tensor:
        """Return the pixels of the blocks of size × size px of masks [M, K, S, S]: [N, K, size²]."""
        inner = torch.arange(size)
        mask, top, left = (values[:, None, None] for values in (self.mask, self.top, self.left))
        return masks[mask, :, top + inner[:, None], left + inner].flatten(1, 2).transpose(1, 2).contiguous()


def _find_least_errors(
    predictors: list[_Predictor], levels: torch.Tensor, on_batch: Callable[[], None]
) -> torch.Tensor:
    """Return the least errors [L, K] of predictors at falling log-SNRs [L]. NaN where no pixel counted.

    predictors: from those that see least of a mask to those that see most, as they become the best one after the other.
    """
    asked = torch.unique(torch.cat([torch.arange(0, len(levels), COARSE), torch.tensor([len(levels) - 1])]))
    coarse = []
    for predict in predictors:
        on_batch()
        coarse.append(predict(levels[asked]))
    found = torch.stack(coarse)  # [predictors, levels asked, K]
    best = found.nan_to_num(torch.inf).argmin(0)  # [levels asked, K]
    least = torch.full((len(levels), found.shape[2]), torch.inf)
    least[asked] = found.amin(0)
    right = torch.searchsorted(asked, torch.arange(len(levels))).clamp(min=1)
    around = torch.cat([best[right - 1], best[right]], 1)  # at the two levels asked around each level, [L, 2 K]
    between = torch.ones(len(levels), dtype=torch.bool).index_fill(0, asked, False)
    for index, predict in enumerate(predictors):
        on_batch()
        chosen = between & (around.amin(1) <= index) & (index <= around.amax(1))
        if chosen.any():
            least[chosen] = torch.minimum(least[chosen], predict(levels[chosen]))
    return torch.where(least.isinf(), torch.nan, least)


def _predict_from_masks(examples: _Signals, masks: _Signals, queries: _Places, draw: torch.Generator) -> _Predictor:
    """Return the predictor of the upper left pixels of the queries from whole masks.

    examples, masks: of training and of testing.
    """
    noise = torch.randn(masks.signal.shape, generator=draw).flatten(1)
    clean, known = masks.signal.flatten(1), examples.signal.flatten(1)
    pixel = queries.top * masks.signal.shape[-1] + queries.left
    wanted, guesses = masks.classes.flatten(2), examples.classes.flatten(2)

    def predict(levels: torch.Tensor) -> torch.Tensor:
        errors, likeness = _Mean(len(levels), wanted.shape[1]), _Likeness.of(known, clean, noise)
        for mask in sorted(set(queries.mask.tolist())):
            pixels = pixel[queries.mask == mask]
            valid = None if masks.valid is None else masks.valid[mask].flatten()[None, pixels]
            one = likeness.select(slice(mask, mask + 1))
            errors.add(one, guesses[:, :, pixels], wanted[mask][None, :, pixels], valid, 1, levels)
        return errors.value()

    return predict


def _predict_from_patches(
    examples: _Signals, known: _Places, masks: _Signals, queries: _Places, size: int, side: int, draw: torch.Generator
) -> _Predictor:
    """Return the predictor of blocks of size × size px from patches of side × side such blocks around them.

    examples, masks: of training and of testing. known, queries: the blocks of either.
    """
    patches, guesses = _cut_patches(examples, known, size, side), known.cut(examples.classes, size)
    clean, wanted = _cut_patches(masks, queries, size, side), queries.cut(masks.classes, size)
    valid = None if masks.valid is None else queries.cut(masks.valid, size)[:, 0]
    noise = torch.randn(clean.shape, generator=draw)

    def predict(levels: torch.Tensor) -> torch.Tensor:
        errors = _Mean(len(levels), wanted.shape[1])
        for start in range(0, len(clean), CHUNK):
            part = slice(start, start + CHUNK)
            counted = None if valid is None else valid[part]
            errors.add(_Likeness.of(patches, clean[part], noise[part]), guesses, wanted[part], counted, size, levels)
        return errors.value()

    return predict


def _cut_patches(masks: _Signals, places: _Places, size: int, side: int) -> torch.Tensor:
    """Return the means of patches around places, over blocks of size × size px, [N, side² C].

    Beyond the border a signal is in the middle of its range, which favours no class.
    """
    mask, top, left = (values[:, None, None] for values in (places.mask, places.top, places.left))
    steps, channels = torch.arange(side) * size, []
    for channel in masks.signal.unbind(1):  # one by one, for the sake of memory
        blocks = F.avg_pool2d(F.pad(channel, (side // 2 * size,) * 4, value=masks.middle), size, stride=1)
        channels.append(blocks[mask, top + steps[:, None], left + steps])
    return torch.stack(channels, dim=3).flatten(1)


@dataclass(frozen=True)
class _Likeness:
    """What the likeness of noisy signals to examples follows from at every noise level."""

    of_signal: torch.Tensor  # [Q, E]: ⟨x, x_k⟩ − ‖x_k‖²/2
    of_noise: torch.Tensor  # [Q, E]: ⟨n, x_k⟩

    @classmethod
    def of(cls, known: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor) -> "_Likeness":
        """Compare signals [Q, D] and their noise [Q, D] with examples [E, D]."""
        return cls(torch.addmm(-known.square().sum(1) / 2, clean, known.T), noise @ known.T)

    def select(self, queries: slice) -> "_Likeness":
        """Return the likeness of some of the queries."""
        return _Likeness(self.of_signal[queries], self.of_noise[queries])


class _Mean:
    """The mean of the squared errors of posterior means, by level and class, over the pixels that count."""

    def __init__(self, levels: int, classes: int):
        self.sums, self.count = torch.zeros(levels, classes, dtype=torch.float64), 0

    def add(
        self, likeness: _Likeness, guesses: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor | None,
        size: int, levels: torch.Tensor,
    ) -> None:  # fmt: skip
        """Add the errors of `_errors`. valid: bool [Q, P], the pixels that count; None if all do."""
        pixels = wanted[:, 0].numel() if valid is None else int(valid.sum())
        if pixels:
            self.sums += pixels * _errors(likeness, guesses, wanted, valid, size, levels)
            self.count += pixels

    def value(self) -> torch.Tensor:
        """Return the means, float32; NaN if no pixel counted."""
        return (self.sums / self.count).float() if self.count else torch.full_like(self.sums, torch.nan).float()


def _errors(
    likeness: _Likeness, guesses: torch.Tensor, wanted: torch.Tensor, valid: torch.Tensor | None,
    size: int, levels: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Return the mean squared errors [L, K] at log-SNRs [L] of the posterior means of the masks `wanted` [Q, K, P].

    The predictor sees x_t = α x + σ/size n of Q patches, and knows E patches with masks `guesses` [E, K, P]. The noise n is the
    same at all levels, so that the curve is smooth. valid: bool [Q, P], the pixels that count. Errors are those of masks in ±1.
    """
    guesses, wanted = guesses.float() * 2 - 1, wanted.float() * 2 - 1
    found, exponent, weights = [], torch.empty_like(likeness.of_noise), torch.empty_like(likeness.of_noise)
    for level in levels:  # in place: fresh memory for such arrays costs more time than the computation
        alpha, sigma = float(torch.sigmoid(level).sqrt()), float(torch.sigmoid(-level).sqrt()) / size
        torch.mul(likeness.of_signal, (alpha / sigma) ** 2, out=exponent).add_(likeness.of_noise, alpha=alpha / sigma)
        torch.softmax(exponent, 1, out=weights)
        errors = (weights @ guesses.flatten(1) - wanted.flatten(1)).square().view_as(wanted)
        found.append(torch.stack([(one if valid is None else one[valid]).mean() for one in errors.unbind(1)]))
    return torch.stack(found)
