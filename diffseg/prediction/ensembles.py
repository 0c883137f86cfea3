"""Prediction: ensembles in large batches, tiling with blended overlaps, and errors over the noise levels."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.config import Config
from diffseg.data.arrays import scaled_size
from diffseg.data.drawing import in_turns
from diffseg.data.splits import Split
from diffseg.diffusion.effective import effective_weight
from diffseg.experiments import Denoising, task
from diffseg.randomness import generator
from diffseg.training.augmentation import symmetry
from diffseg.training.batches import one_rater, random_corners
from diffseg.training.execution import autocast, for_inference
from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)
ERRORS = ("mask_error", "dice_error", "cross_entropy", "loss")  # over the noise levels


@dataclass(frozen=True)
class Prediction:
    """The ensemble's answer for one image."""

    index: int  # of the image in its split
    mean: torch.Tensor  # merged foreground probability, float32 [H, W]
    sd: torch.Tensor  # standard deviation of the members' maps, float32 [H, W], 0 to 0.5
    masks: torch.Tensor  # the members' maps cut at the threshold, bool [members, H, W]
    evaluations: torch.Tensor  # of the network, a tile of a member, mean, float32 []


@dataclass
class _Canvas:
    """Where the tiles of one image and all members come together, weighted towards each tile's middle."""

    index: int
    sums: torch.Tensor  # [members, H, W]
    weights: torch.Tensor  # [members, H, W]
    evaluations: torch.Tensor  # of the network, of all tiles and members, []
    tiles: list[tuple[int, int]]


@dataclass(frozen=True)
class _Tile:
    """A part of an image, seen by one member of the ensemble."""

    canvas: _Canvas
    member: int
    corner: tuple[int, int]  # top, left

    @property
    def of(self) -> tuple[int, int]:
        return self.canvas.index, self.member

    def add(self, probability: torch.Tensor, evaluations: torch.Tensor, window: torch.Tensor) -> None:
        """Put what was predicted, [S, S], into its image, weighted by the window [S, S]."""
        (top, left), size = self.corner, len(window)
        place = self.member, slice(top, top + size), slice(left, left + size)
        self.canvas.evaluations += evaluations
        self.canvas.sums[place] += window * probability
        self.canvas.weights[place] += window


def predictions(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Prediction]:
    """The ensemble's prediction of every image of a split, at the size that the split holds or the images' own.

    on_batch is called between batches and may raise to stop. Every member's noise is drawn for the whole image from
    (seed, image, member, step), so results do not depend on the batch size, and overlapping tiles see the same noise.
    """
    inference, size, batch = config.inference, config.data.size, config.inference.batch
    whole, window = for_inference(network, config, split.device), _window(size, split.device)
    pending: list[_Canvas] = []
    tiles: list[_Tile] = []  # of them, those that are still to be predicted
    for index, (height, width) in enumerate(split.sizes.tolist()):
        blank = torch.zeros(inference.ensemble, height, width, device=split.device)
        none = torch.zeros((), device=split.device)
        canvas = _Canvas(index, blank, blank.clone(), none, corners(height, width, size, inference.overlap))
        pending.append(canvas)
        tiles += [_Tile(canvas, member, corner) for member in range(inference.ensemble) for corner in canvas.tiles]
        while len(tiles) >= batch or (tiles and index == len(split.names) - 1):
            on_batch()
            try:
                used = whole if len(tiles) >= inference.batch == batch else network
                found = _predicted(used, split, config, tiles[:batch])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or batch == 1:
                    raise
                batch //= 2
                log.warning("out of memory: from now on %d tiles at once", batch)
                continue
            for tile, probability, count in zip(tiles[:batch], *found, strict=True):
                tile.add(probability[0], count, window)
            tiles = tiles[batch:]
        while pending and not (tiles and tiles[0].canvas is pending[0]):
            yield _merged(pending.pop(0), split, config)


def corners(height: int, width: int, size: int, overlap: float) -> list[tuple[int, int]]:
    """Top-left corners of the size × size tiles that cover an image, neighbours sharing at least `overlap` of a side."""

    def starts(length: int) -> list[int]:
        count = 1 + max(0, -(-(length - size) // max(1, round(size * (1 - overlap)))))
        return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in starts(height) for left in starts(width)]


@torch.inference_mode()
def errors_over_t(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> list[dict]:
    """Errors at `inference.timesteps` equally spaced noise levels: rows of t, log_snr, the errors of ERRORS, weight.

    Means over `inference.timestep_images` pairs of an image (or a crop of it) and a noise (E2, E3, E4); the split's images
    come in turn, first one of each patient, again if they are fewer. The pairs are the same at all levels, so that the
    curve is smooth. weight is the effective weight of the noise level in training.
    """
    experiment = task(config)
    assert isinstance(experiment, Denoising)
    count, device = config.inference.timestep_images, split.device
    which = in_turns(split)[torch.arange(count, device=device) % len(split.names)]
    places = random_corners(split, which, config.data.size, generator(device, config.seed, "windows"))
    images, masks = split.windows(which, places, config.data.size)
    masks = one_rater(masks, generator(device, config.seed, "raters"))
    images, masks = split.inputs(images, which), masks.float()
    grid = (
        torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64, device=device) / config.inference.timesteps
    )
    sums = torch.zeros(len(grid), len(ERRORS), dtype=torch.float64, device=device)
    for k, t in enumerate(grid):
        draw = generator(device, config.seed, "timesteps")
        for first in range(0, count, config.inference.batch):
            on_batch()
            part = slice(first, first + config.inference.batch)
            times = t.expand(len(images[part]))
            with autocast(config, device):
                found = experiment.errors(network, images[part], masks[part], times, draw)
            sums[k] += torch.stack([found[name].double() for name in ERRORS]).sum(1)
    levels, weights = effective_weight(grid, config.diffusion, getattr(network, "uncertainty", None))
    columns = torch.stack([grid, levels, *(sums / count).unbind(1), weights], dim=1)
    return [dict(zip(("t", "log_snr", *ERRORS, "weight"), row, strict=True)) for row in columns.tolist()]


@torch.inference_mode()
def _predicted(network, split: Split, config: Config, tiles: list[_Tile]) -> tuple[torch.Tensor, torch.Tensor]:
    """(foreground probability [B, 1, S, S] of tiles in one batch, network evaluations [B])."""
    size, device = config.data.size, split.device
    turned = config.inference.augment == "symmetries"
    seen = [(tile.canvas.index, *tile.corner, tile.member % 8 if turned else 0) for tile in tiles]
    distinct = {view: number for number, view in enumerate(dict.fromkeys(seen))}  # members often see the same
    index, top, left, view = torch.tensor(list(distinct), device=device).unbind(1)
    images = symmetry(split.windows(index, torch.stack([top, left], 1), size)[0], view)
    which = torch.tensor([distinct[one] for one in seen], device=device)
    noise = _Noise(split, config, tiles)
    with autocast(config, device):
        probabilities, evaluations = task(config).predict(network, split.inputs(images, index), noise, which)
    return symmetry(probabilities, view[which], inverse=True), evaluations


class _Noise:
    """Calling it with k gives the k-th noise [B, 1, S, S] of tiles: windows of whole-image noise maps."""

    def __init__(self, split: Split, config: Config, tiles: list[_Tile]):
        self.split, self.config, self.tiles = split, config, tiles

    def __call__(self, k: int) -> torch.Tensor:
        size, device, maps = self.config.data.size, self.split.device, {}
        for tile in self.tiles:
            if tile.of not in maps:
                name, shape = self.split.names[tile.canvas.index], tile.canvas.sums.shape[1:]
                draw = generator(device, self.config.seed, "sample", name, tile.member, k)
                maps[tile.of] = torch.randn(shape, generator=draw, device=device)
        seen = [(maps[tile.of], *tile.corner) for tile in self.tiles]
        return torch.stack([whole[None, top : top + size, left : left + size] for whole, top, left in seen])


def _window(size: int, device: torch.device) -> torch.Tensor:
    """[size, size] weights of a tile's pixels: a squared sine, never quite zero, so that every pixel counts."""
    ramp = torch.sin((torch.arange(size, device=device) + 0.5) / size * torch.pi).square() + 1e-3
    return ramp[:, None] * ramp


def _merged(canvas: _Canvas, split: Split, config: Config) -> Prediction:
    inference = config.inference
    members = restored(canvas.sums / canvas.weights, split, canvas.index, config)
    masks = members > inference.threshold
    if inference.merge != "mean":
        members = masks.float()
    mean = _staple(members) if inference.merge == "staple" else members.mean(0)
    evaluations = canvas.evaluations / (len(members) * len(canvas.tiles))
    return Prediction(canvas.index, mean, members.std(0, correction=0), masks, evaluations)


def restored(maps: torch.Tensor, split: Split, index: int, config: Config) -> torch.Tensor:
    """Maps [n, h, w] of the index-th image at the size at which it is evaluated; to its own they are interpolated bilinearly.

    Mirrored borders, which small images have with data.fit="crop", are cut off then.
    """
    if config.inference.resolution == "network" or split.records is None:
        return maps
    size = split.originals[index]
    height, width = scaled_size(size, config.data)
    return F.interpolate(maps[None, :, :height, :width], size, mode="bilinear")[0]


def truth(split: Split, index: int, config: Config) -> torch.Tensor:
    """The raters' masks of the index-th image at the size at which it is evaluated, bool [R, H, W].

    Raises DataError if its files have changed since they were decoded.
    """
    if config.inference.resolution == "network" or split.records is None:
        return split.masks[index].to(split.device).bool()
    return torch.from_numpy(split.record(index).read_masks()).to(split.device)


def _staple(masks: torch.Tensor) -> torch.Tensor:
    """Probability [H, W] of the foreground given masks [members, H, W] of 0 and 1 (STAPLE, Warfield et al., 2004)."""
    import SimpleITK

    if (masks == masks[:1]).all():  # nothing to weigh, and no spread to estimate
        return masks[0]
    votes = [SimpleITK.GetImageFromArray(mask) for mask in masks.byte().cpu().numpy()]
    return torch.from_numpy(SimpleITK.GetArrayFromImage(SimpleITK.STAPLE(votes, 1.0))).to(masks)


def pooled(parts: list[Prediction]) -> Prediction:
    """One prediction of several networks that count alike: the mean, and the deviation of all their members."""
    means, deviations, evaluations = (
        torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "sd", "evaluations")
    )
    spread = (deviations.square().mean(0) + means.var(0, correction=0)).sqrt()
    masks = torch.cat([part.masks for part in parts])
    return Prediction(parts[0].index, means.mean(0), spread, masks, evaluations.mean())
