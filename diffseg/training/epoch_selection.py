"""How long E1 trains (Öttl et al., 2024): held-out training images select the number of epochs, then all are trained on."""

import dataclasses
from pathlib import Path

import torch

from diffseg.config import Config
from diffseg.data.partition import hold_out
from diffseg.data.splits import Split
from diffseg.errors import DataError
from diffseg.experiments import build_experiment
from diffseg.randomness import generator
from diffseg.rows import Row
from diffseg.training.batches import draw_corners, draw_rater
from diffseg.training.execution import autocast
from diffseg.training.hooks import Hooks
from diffseg.training.loop import train
from diffseg.training.parallel import SINGLE_PROCESS, Workers
from diffseg.training.state import TrainingState, start_or_resume


def select_epochs(
    config: Config, split: Split, folder: Path, hooks: Hooks, workers: Workers = SINGLE_PROCESS
) -> tuple[Config, TrainingState]:
    """Find the number of epochs with the lowest validation loss.

    The seed holds out the share training.validation of the images, in whole patients. The others are trained on for
    training.steps, and the loss of the held-out ones is measured after every epoch.

    Args:
        config: The trial's configuration.
        split: The training images.
        folder: The folder of this training's checkpoints, from which it resumes.
        hooks: Functions of the caller.
        workers: The processes that train together.

    Returns:
        (the configuration with that many epochs as training.steps, the state of the training that found it)

    Raises:
        Stopped: A hook asked to stop.
        Diverged: A loss or gradient norm is not finite.
        DataError: Either part of the images would be empty, or training.steps is less than an epoch.
    """
    device, count = split.device, len(split.names)
    order = torch.randperm(count, generator=generator(device, config.seed, "validation"), device=device)
    rank, share = order.argsort().tolist(), config.training.validation
    training, validation = hold_out(split, share, rank, "training.validation", config.data.name)
    epoch = _steps_per_epoch(config, training)
    if config.training.steps < epoch:
        raise DataError(
            f"training.steps is {config.training.steps}, but one epoch of {len(training.names)} images has {epoch}"
        )

    def measure(state: TrainingState) -> list[Row]:
        return [_measure_validation_loss(state, validation, config)]

    state = start_or_resume(config, folder, device, workers)
    due = range(epoch, config.training.steps + 1, epoch)
    train(config, training, state, folder, measure, due, hooks, workers)
    best = min(state.snapshots, key=lambda row: float(row["validation_loss"]))
    steps = best["step"] // epoch * _steps_per_epoch(config, split)
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})}), state


def selection_curves(state: TrainingState) -> list[Row]:
    """Return the learning curves of the epoch selection, under names of their own."""
    rows = [{**row, "metric": f"selection_{row['metric']}"} for row in state.curves]
    losses = [
        {"step": row["step"], "metric": "validation_loss", "value": row["validation_loss"]} for row in state.snapshots
    ]
    return rows + losses


def offset_hooks(hooks: Hooks, steps: int) -> Hooks:
    """Return hooks whose logged step counts are offset by `steps`, for a training that follows one of that length."""
    return dataclasses.replace(hooks, on_log=lambda step, metrics: hooks.on_log(steps + step, metrics))


def _steps_per_epoch(config: Config, split: Split) -> int:
    return -(-len(split.names) // config.training.batch)


@torch.inference_mode()
def _measure_validation_loss(state: TrainingState, split: Split, config: Config) -> Row:
    """Return the mean loss of the averaged weights on the images, or on one fixed random window of each."""
    device, size = split.device, config.data.size
    total = torch.zeros((), device=device)
    everything = torch.arange(len(split.names), device=device)
    corners = draw_corners(split, everything, size, generator(device, config.seed, "validation windows"))
    for first in range(0, len(split.names), config.training.batch):
        which = everything[first : first + config.training.batch]
        images, masks = split.cut_windows(which, corners[which], size)
        masks = draw_rater(masks, generator(device, config.seed, "validation raters", first))
        draw = generator(device, config.seed, "validation noise", first)
        with autocast(config, device):
            loss = build_experiment(config).loss(
                state.average, split.prepare_inputs(images, which), masks.float(), draw
            )
        total = total + loss * len(which)
    return {"validation_loss": float(total) / len(split.names)}
