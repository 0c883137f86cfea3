"""Ensembles: the members of all images and tiles, predicted in large batches."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.experiments import task
from diffseg.prediction.merging import Prediction, staple
from diffseg.prediction.resolution import restored
from diffseg.prediction.tiling import Canvas, Tile, corners
from diffseg.prediction.tiling import window as tile_window
from diffseg.randomness import generator
from diffseg.training.augmentation import symmetry
from diffseg.training.execution import autocast, for_inference
from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)


def predictions(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Prediction]:
    """The ensemble's prediction of every image of a split, at the size that the split holds or the images' own.

    on_batch is called between batches and may raise to stop. Every member's noise is drawn for the whole image from
    (seed, image, member, step), so results do not depend on the batch size, and overlapping tiles see the same noise.
    """
    inference, size, batch = config.inference, config.data.size, config.inference.batch
    whole, window = for_inference(network, config, split.device), tile_window(size, split.device)
    pending: list[Canvas] = []
    tiles: list[Tile] = []  # of them, those that are still to be predicted
    for index, (height, width) in enumerate(split.sizes.tolist()):
        blank = torch.zeros(inference.ensemble, height, width, device=split.device)
        none = torch.zeros((), device=split.device)
        canvas = Canvas(index, blank, blank.clone(), none, corners(height, width, size, inference.overlap))
        pending.append(canvas)
        tiles += [Tile(canvas, member, corner) for member in range(inference.ensemble) for corner in canvas.tiles]
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


@torch.inference_mode()
def _predicted(network, split: Split, config: Config, tiles: list[Tile]) -> tuple[torch.Tensor, torch.Tensor]:
    """(foreground probability [B, 1, S, S] of tiles in one batch, network evaluations [B])."""
    size, device = config.data.size, split.device
    turned = config.inference.augment == "symmetries"
    seen = [(tile.canvas.index, *tile.corner, tile.member % 8 if turned else 0) for tile in tiles]
    distinct = {view: number for number, view in enumerate(dict.fromkeys(seen))}  # members often see the same
    index, top, left, view = torch.tensor(list(distinct), device=device).unbind(1)
    images = symmetry(split.cut_windows(index, torch.stack([top, left], 1), size)[0], view)
    which = torch.tensor([distinct[one] for one in seen], device=device)
    noise = _Noise(split, config, tiles)
    with autocast(config, device):
        probabilities, evaluations = task(config).predict(network, split.prepare_inputs(images, index), noise, which)
    return symmetry(probabilities, view[which], inverse=True), evaluations


class _Noise:
    """Calling it with k gives the k-th noise [B, 1, S, S] of tiles: windows of whole-image noise maps."""

    def __init__(self, split: Split, config: Config, tiles: list[Tile]):
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


def _merged(canvas: Canvas, split: Split, config: Config) -> Prediction:
    inference = config.inference
    members = restored(canvas.sums / canvas.weights, split, canvas.index, config)
    masks = members > inference.threshold
    if inference.merge != "mean":
        members = masks.float()
    mean = staple(members) if inference.merge == "staple" else members.mean(0)
    evaluations = canvas.evaluations / (len(members) * len(canvas.tiles))
    return Prediction(canvas.index, mean, members.std(0, correction=0), masks, evaluations)
