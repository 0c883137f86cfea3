"""The common way to train a network and to predict with it: the training loop, epoch selection and the ensembles."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffseg.config import Config
from diffseg.data import Split
from diffseg.data.partition import interleave_groups
from diffseg.errors import Pruned
from diffseg.evaluation.split import evaluate
from diffseg.networks.protocol import RunContext, TrainedNetwork
from diffseg.prediction.ensembles import predict_split
from diffseg.prediction.merging import Prediction
from diffseg.prediction.noise_errors import measure_noise_errors
from diffseg.training import checkpoints
from diffseg.training.epoch_selection import offset_hooks, select_epochs, selection_curves
from diffseg.training.execution import compiles_training, precision
from diffseg.training.loop import train
from diffseg.training.posthoc_ema import load_average
from diffseg.training.state import TrainingState, load_trained, start_or_resume


def fit(config: Config, folder: Path, context: RunContext) -> TrainedNetwork:
    """Train by the common loop; with training.validation, first find the number of epochs.

    Raises Stopped when asked to stop, Diverged for a loss that is not finite, UserError for what cannot be trained.
    """
    hooks, search = context.hooks, None
    if config.training.validation:
        longest = config.training.steps
        config, search = select_epochs(config, context.training, folder / "selection", hooks, context.workers)
        hooks = offset_hooks(hooks, longest)
    state = start_or_resume(config, folder, context.device, context.workers)
    snapshots, evaluations = (
        {round(share * config.training.steps) for share in shares}
        for shares in (config.training.snapshots, config.training.evaluations)
    )

    def measure(state: TrainingState) -> list[dict[str, Any]]:
        rows = []
        if state.step in snapshots:
            rows += measure_noise_errors(state.average, context.test, config, context.on_batch)
        if state.step in evaluations:
            rows += _evaluate_some(state, config, context)
        return rows

    try:
        train(config, context.training, state, folder, measure, snapshots | evaluations, hooks, context.workers)
    except Pruned as end:
        return _describe(state, folder, iter(()), search, pruned=str(end))
    if config.inference.ema_length and state.averages:
        load_average(state.average, state.averages.copies, config.inference.ema_length)
    predict = partial(predict_split, state.average, config=config, on_batch=context.on_batch)
    described = _describe(state, folder, predict(context.test), search)
    return replace(described, calibration=predict(context.calibration)) if context.calibration else described


def load(
    config: Config, folder: Path, device: torch.device, checkpoint: str | None
) -> Callable[[Split, Config], Iterator[Prediction]]:
    """Return a function that predicts a split with the trained network in `folder`.

    Raises UserError for a checkpoint that is missing, damaged or another network's.
    """
    network = load_trained(config, folder, device, checkpoint)
    return lambda split, config: predict_split(network, split, config)


def execution(config: Config, device: torch.device) -> dict[str, Any]:
    """Return the precision that the network is computed in, and whether it is compiled."""
    return {"precision": precision(config, device), "compiled": compiles_training(config, device)}


def _evaluate_some(state: TrainingState, config: Config, context: RunContext) -> list[dict[str, Any]]:
    """Return the metrics of the first test images, of different patients: their means, and those of each image.

    The images depend on the data alone, so that all trials of a search are compared on the same ones.
    """
    count = min(config.inference.evaluation_images, len(context.test.names))
    some = context.test.subset(interleave_groups(context.test)[:count])
    found = evaluate(predict_split(state.average, some, config, context.on_batch), some, config)
    means = [{"metric": metric, "value": value} for metric, value in found["means"].items()]
    return means + [row for row in found["images"] if row["class"] == "all"]


def _describe(
    state: TrainingState,
    folder: Path,
    found: Iterator[Prediction],
    search: TrainingState | None,
    pruned: str | None = None,
) -> TrainedNetwork:
    """Return the record of a training. search: the training that found the number of epochs, if there was one."""
    return TrainedNetwork(
        predictions=found,
        parameters=sum(parameter.numel() for parameter in state.network.parameters()),
        seconds=state.seconds + (search.seconds if search else 0.0),
        resumed=state.resumed + (search.resumed if search else 0.0),
        steps=state.step,
        curves=(selection_curves(search) if search else [])
        + state.curves
        + [row for row in state.snapshots if "metric" in row],
        timesteps=[row for row in state.snapshots if "t" in row],
        pruned=pruned,
        micro_batch=state.micro_batch,
        execution=state.execution,
        checkpoint=checkpoints.find_final(folder, state.step),
    )
