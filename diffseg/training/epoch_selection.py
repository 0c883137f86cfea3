"""How long E1 trains (Öttl et al., 2024): part of the training images finds the number of epochs, then all are trained on."""

import dataclasses
from pathlib import Path

import torch

from diffseg.config import Config
from diffseg.data.partition import hold_out
from diffseg.data.splits import Split
from diffseg.errors import DataError
from diffseg.experiments import task
from diffseg.randomness import generator
from diffseg.training.batches import one_rater, random_corners
from diffseg.training.execution import autocast
from diffseg.training.loop import Hooks, State, start, train
from diffseg.training.parallel import ALONE, Workers


def selected(
    config: Config, split: Split, folder: Path, hooks: Hooks, workers: Workers = ALONE
) -> tuple[Config, State]:
    """The configuration with the number of steps that had the lowest validation loss, and the training that found it.

    training.validation of the images, drawn by the seed in whole patients, are held out; the rest are trained on for
    training.steps, and the loss on the former is measured after every epoch. It goes on from checkpoints in the folder.
    Raises Stopped and Diverged as training does, DataError if either part would be empty.
    """
    device, count = split.device, len(split.names)
    order = torch.randperm(count, generator=generator(device, config.seed, "validation"), device=device)
    rank, share = order.argsort().tolist(), config.training.validation
    training, validation = hold_out(split, share, rank, "training.validation", config.data.name)
    epoch = _epoch(config, training)
    if config.training.steps < epoch:
        raise DataError(
            f"training.steps is {config.training.steps}, but one epoch of {len(training.names)} images has {epoch}"
        )
    state = start(config, folder, device, workers)
    due = range(epoch, config.training.steps + 1, epoch)
    train(config, training, state, folder, lambda state: [_validated(state, validation, config)], due, hooks, workers)
    best = min(state.snapshots, key=lambda row: row["validation_loss"])
    steps = best["step"] // epoch * _epoch(config, split)
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})}), state


def curves(state: State) -> list[dict]:
    """The learning curves of the search for the number of epochs, told from the training proper by their names."""
    rows = [{**row, "metric": f"selection_{row['metric']}"} for row in state.curves]
    losses = [
        {"step": row["step"], "metric": "validation_loss", "value": row["validation_loss"]} for row in state.snapshots
    ]
    return rows + losses


def later(hooks: Hooks, steps: int) -> Hooks:
    """The same hooks for a training that follows one of so many steps."""
    return dataclasses.replace(hooks, on_log=lambda step, metrics: hooks.on_log(steps + step, metrics))


def _epoch(config: Config, split: Split) -> int:
    return -(-len(split.names) // config.training.batch)


@torch.inference_mode()
def _validated(state: State, split: Split, config: Config) -> dict[str, float]:
    """The mean loss of the images as they are, or of one window of each, the same ones every time."""
    device, size, total = split.device, config.data.size, 0.0
    everything = torch.arange(len(split.names), device=device)
    corners = random_corners(split, everything, size, generator(device, config.seed, "validation windows"))
    for first in range(0, len(split.names), config.training.batch):
        which = everything[first : first + config.training.batch]
        images, masks = split.cut_windows(which, corners[which], size)
        masks = one_rater(masks, generator(device, config.seed, "validation raters", first))
        draw = generator(device, config.seed, "validation noise", first)
        with autocast(config, device):
            total += task(config).loss(state.average, split.prepare_inputs(images, which), masks.float(), draw) * len(
                which
            )
    return {"validation_loss": float(total) / len(split.names)}
