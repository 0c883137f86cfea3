"""Ensembles: the members of all images and tiles, predicted in large batches."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.experiments import build_experiment
from diffseg.experiments.protocol import NoiseDraws
from diffseg.labels.labels import Labels
from diffseg.prediction.capture import CapturedCalls
from diffseg.prediction.merging import Prediction, merge_members
from diffseg.prediction.noise import CountedNoise, GeneratedNoise
from diffseg.prediction.resolution import resize_to_evaluation
from diffseg.prediction.tiling import Canvas, Tile, add_tiles, tile_corners, tile_window
from diffseg.training.augmentation import apply_symmetry
from diffseg.training.execution import autocast, captures_predictions, compile_for_inference
from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)


def predict_split(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Prediction]:
    """Yield the ensemble's prediction of every image of a split, in order, at the size at which it is evaluated.

    The noise of each member is drawn for the whole image, from (seed, image, member, step). Results therefore do not
    depend on the batch size, and overlapping tiles see the same noise.

    Args:
        network: The trained network.
        split: The images.
        config: The trial's configuration.
        on_batch: Called before each batch; it may raise to stop.
    """
    predictor = _TilePredictor(network, split, config)
    pending: list[Canvas] = []
    tiles: list[Tile] = []  # the tiles of the pending canvases that are still to be predicted
    for index, (height, width) in enumerate(split.sizes.tolist()):
        corners = tile_corners(height, width, config.data.size, config.inference.overlap)
        shape = config.inference.ensemble, Labels.of(config).classes.count, height, width
        canvas = Canvas.blank(index, shape, corners, split.device)
        pending.append(canvas)
        tiles += [Tile(canvas, member, corner) for corner in corners for member in range(config.inference.ensemble)]
        while len(tiles) >= predictor.batch or (tiles and index == len(split.names) - 1):
            on_batch()
            done = predictor.predict_batch(tiles)
            tiles = tiles[done:]
        while pending and not (tiles and tiles[0].canvas is pending[0]):
            yield _finish(pending.pop(0), split, config)


class _TilePredictor:
    """Predicts tiles in batches. It halves its batch when memory is short."""

    def __init__(self, network: nn.Module, split: Split, config: Config):
        self.network, self.split, self.config = network, split, config
        self.compiled = compile_for_inference(network, config, split.device)
        self.experiment = build_experiment(config)
        self.plan = self.experiment.plan(network, split.device)
        self.window = tile_window(config.data.size, split.device)
        self.batch = config.inference.batch
        captured = captures_predictions(config, split.device)
        self.counted = CapturedCalls(self._predict_counted, split.device) if captured else self._predict_counted

    def predict_batch(self, tiles: list[Tile]) -> int:
        """Predict the first tiles and add them to their canvases. Return their number, 0 if memory was too short."""
        batch = tiles[: self.batch]
        try:
            probabilities, evaluations = self._predict(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.batch == 1:
                raise
            self.batch //= 2
            log.warning("out of memory: prediction continues with %d tiles at once", self.batch)
            return 0
        add_tiles(batch, probabilities, evaluations, self.window)
        return len(batch)

    @torch.inference_mode()
    def _predict(self, tiles: list[Tile]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (probability of each class [B, K, S, S], network evaluations [B]) of tiles, in one batch."""
        split, config, device = self.split, self.config, self.split.device
        turned = config.inference.augment == "symmetries"
        seen = [(tile.canvas.index, *tile.corner, tile.member % 8 if turned else 0) for tile in tiles]
        distinct = {view: number for number, view in enumerate(dict.fromkeys(seen))}  # members often see the same view
        index, top, left, view = torch.tensor(list(distinct), device=device).unbind(1)
        images = apply_symmetry(split.cut_windows(index, torch.stack([top, left], 1), config.data.size)[0], view)
        images = split.prepare_inputs(images, index)
        which = torch.tensor([distinct[one] for one in seen], device=device)
        if device.type == "cuda":
            noise = CountedNoise.of(tiles, split, config)
            probabilities, evaluations = self.counted(images, which, noise.keys, noise.members, noise.corners)
        else:
            probabilities, evaluations = self._sample(images, which, GeneratedNoise(tiles, split, config))
        return apply_symmetry(probabilities, view[which], inverse=True), evaluations

    def _predict_counted(
        self,
        images: torch.Tensor,
        which: torch.Tensor,
        keys: torch.Tensor,
        members: torch.Tensor,
        corners: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `_predict` returns, given all that it depends on, so that it can be captured."""
        noise = CountedNoise(keys, members, corners, Labels.of(self.config).channels, self.config.data.size)
        return self._sample(images, which, noise)

    def _sample(
        self, images: torch.Tensor, which: torch.Tensor, noise: NoiseDraws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole = len(which) == self.config.inference.batch  # only whole batches are compiled
        with autocast(self.config, self.split.device):
            return self.experiment.predict(self.compiled if whole else self.network, images, noise, which, self.plan)


def _finish(canvas: Canvas, split: Split, config: Config) -> Prediction:
    """Return the prediction of an image whose tiles are all done."""
    members = resize_to_evaluation(canvas.sums / canvas.weights, split, canvas.index, config)
    evaluations = canvas.evaluations / (len(members) * len(canvas.tiles))
    return merge_members(canvas.index, members, evaluations, config)
