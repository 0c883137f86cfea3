"""nnU-Net v2 (Isensee et al., 2021) by nnunetv2's own planner, preprocessor, trainer and predictor, for E1."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffseg.config import Config, Data
from diffseg.data.splits import Split
from diffseg.errors import UserError
from diffseg.labels.classes import Classes
from diffseg.labels.labels import Labels
from diffseg.networks.nnunet.dataset import SPACING, count_heads, pixels_of
from diffseg.networks.nnunet.library import output_to_log
from diffseg.networks.nnunet.plan import plan_network
from diffseg.networks.nnunet.settings import NNUNet
from diffseg.networks.nnunet.training import State, load_trained, train
from diffseg.networks.protocol import Implementation, RunContext, TrainedNetwork
from diffseg.prediction.merging import Prediction
from diffseg.prediction.resolution import resize_to_evaluation
from diffseg.training import checkpoints


class NNUNetImplementation(Implementation[NNUNet]):
    """nnU-Net, which plans, trains and predicts in its own way."""

    def fit(self, config: Config, folder: Path, context: RunContext) -> TrainedNetwork:
        """Train to the end, resuming from the last epoch's checkpoint. Raises UserError for several workers."""
        if context.workers.count > 1:
            raise UserError(f"nnunet trains on one worker, not on {context.workers.count}: give --workers 1")
        state = train(config, context.training, folder, context.device, context.hooks)
        predict = partial(predictions, state, config=config, on_batch=context.on_batch)
        return TrainedNetwork(
            predictions=predict(context.test),
            calibration=predict(context.calibration) if context.calibration else (),
            parameters=sum(parameter.numel() for parameter in state.network.parameters()),
            seconds=state.seconds,
            resumed=state.resumed,
            steps=state.step,
            curves=state.curves,
            timesteps=[],
            checkpoint=checkpoints.find_final(folder, state.step),
        )

    def load(
        self, config: Config, folder: Path, device: torch.device, checkpoint: str | None
    ) -> Callable[[Split, Config], Iterator[Prediction]]:
        """Return a function that predicts a split with the trained network in `folder`."""
        state = load_trained(config, folder, device, checkpoint)
        return lambda split, config: predictions(state, split, config)

    def execution(self, config: Config, device: torch.device) -> dict[str, Any]:
        """Return nothing: nnunetv2 decides itself."""
        return {}

    def plan(self, data: Data) -> tuple[nn.Module, int]:
        """Return (network on the meta device, batch) that nnU-Net would plan for such a data set."""
        return plan_network(data.size, data.train_images, data.channels, count_heads(Classes.of(data)))

    def evaluations_per_image(self, config: Config) -> int:
        """Return the forward passes that predict one image: one for each mirrored form."""
        return 4 if self.settings.mirroring else 1


def predictions(
    state: State, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Prediction]:
    """Yield the probability of each class of every image: one prediction each, so without spread."""
    labels = Labels.of(config)
    state.network.eval()
    state.predictor.list_of_parameters = [state.network.state_dict()]  # nnunetv2 averages over a list of folds
    for index, image in enumerate(split.images):
        on_batch()
        pixels = pixels_of(split, index, image)[:, None].astype(np.float32)
        with output_to_log():
            _, found = state.predictor.predict_single_npy_array(pixels, {"spacing": SPACING}, None, None, True)
        maps = torch.from_numpy(np.ascontiguousarray(found[-labels.classes.count :, 0])).to(split.device)
        mean = resize_to_evaluation(maps[None], split, index, config)[0]
        masks = labels.decide(mean, config.inference.threshold)[None]
        yield Prediction(index, mean, torch.zeros_like(mean), masks, torch.ones(()))
