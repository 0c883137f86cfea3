"""nnU-Net's training: our loop over epochs around nnunetv2's steps, so that it stops, resumes and reports as ours does.

On a CPU batches are drawn in this process and seeded by the epoch, so that a resumed training ends bit for bit as one that
was not stopped. On a GPU they come from nnunetv2's own processes, in no fixed order.
"""

import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.errors import Diverged, Stopped, UserError
from diffseg.labels.classes import FOREGROUND, Classes
from diffseg.networks.nnunet.dataset import prepare
from diffseg.networks.nnunet.library import environment, make_predictor, make_trainer, output_to_log
from diffseg.networks.nnunet.settings import NNUNet
from diffseg.randomness import seed_of
from diffseg.training import checkpoints
from diffseg.training.hooks import Hooks


@dataclass
class State:
    """A training under way, or done."""

    network: nn.Module
    predictor: Any  # nnunetv2's
    step: int = 0
    seconds: float = 0.0  # of training
    resumed: float = 0.0  # those of them before this start
    curves: list[dict[str, Any]] = field(default_factory=list)


def train(config: Config, split: Split, folder: Path, device: torch.device, hooks: Hooks = Hooks()) -> State:
    """Prepare the data, plan, and train in the folder, from the last checkpoint in it if there is one.

    Raises Stopped (with the last epoch's checkpoint left) when asked to stop, Diverged if the loss is not finite.
    """
    work, settings = folder / "nnunet", _settings(config)
    with output_to_log(), environment(work, workers=None if device.type == "cuda" else 0):
        if not work.exists():
            prepare(split, work, Classes.of(config.data))
        trainer = make_trainer(settings, config.seed, device)
        state = State(trainer.network, make_predictor(trainer, settings))
        _restore(state, trainer, config, folder, device)
        if state.step < config.steps:  # else the files that batches come from may be gone
            _train_epochs(state, trainer, config, folder, hooks)
        trainer.set_deep_supervision_enabled(False)
    return state


def load_trained(config: Config, folder: Path, device: torch.device, checkpoint: str | None = None) -> State:
    """Load a finished training from the folder; nothing is written there.

    checkpoint: the file that the training ended with; None for the newest one.
    Raises UserError if nnunetv2's plans or that checkpoint cannot be used.
    """
    settings = _settings(config)
    checkpoints.load_final(folder, checkpoint, config.steps, device, None)  # before nnunetv2 takes its time
    with tempfile.TemporaryDirectory() as results, output_to_log(), environment(folder / "nnunet", 0, Path(results)):
        try:
            trainer = make_trainer(settings, config.seed, device)
        except Exception as error:  # nnunetv2 has no error of its own for plans that are missing or damaged
            raise UserError(
                f"nnU-Net's plans in {folder / 'nnunet'} cannot be used ({type(error).__name__}: {error}): bring them back, or "
                "run the trial again in a study of another name"
            ) from None
        classes = Classes.of(config.data).description
        saved = checkpoints.load_final(folder, checkpoint, config.steps, device, trainer.network, classes)
        trainer.network.load_state_dict(saved["network"])
        trainer.set_deep_supervision_enabled(False)
    return State(trainer.network, make_predictor(trainer, settings), saved["step"])


def _settings(config: Config) -> NNUNet:
    assert isinstance(config.network, NNUNet)
    return config.network


def _train_epochs(state: State, trainer: Any, config: Config, folder: Path, hooks: Hooks) -> None:
    """Train the epochs that are left, and leave a checkpoint after each."""
    settings = _settings(config)
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.set_deep_supervision_enabled(True)
    try:
        for epoch in range(state.step // settings.iterations, settings.epochs):
            _train_epoch(state, trainer, config, epoch, hooks)
            _save(state, trainer, config, folder)
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            getattr(loader, "_finish", lambda: None)()  # ends the processes that a GPU's batches come from


def _train_epoch(state: State, trainer: Any, config: Config, epoch: int, hooks: Hooks) -> None:
    """Take the steps of an epoch. Raises Stopped when asked to stop, Diverged if the mean loss is not finite."""
    settings, clock, losses = _settings(config), time.perf_counter(), []
    np.random.seed(seed_of(config.seed, "nnunet", epoch) % 2**32)  # noqa: NPY002  nnunetv2 draws from the global ones
    torch.manual_seed(seed_of(config.seed, "nnunet", epoch))
    trainer.current_epoch = epoch
    trainer.network.train()
    trainer.lr_scheduler.step(epoch)
    for _ in range(settings.iterations):
        losses.append(trainer.train_step(next(trainer.dataloader_train))["loss"])
        if hooks.should_stop():
            raise Stopped(f"stopped in epoch {epoch + 1} of {settings.epochs}")
    state.step += settings.iterations
    state.seconds += time.perf_counter() - clock
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} in epoch {epoch + 1}: lower network.learning_rate")
    metrics = {"loss": loss, "learning_rate": trainer.optimizer.param_groups[0]["lr"]}
    state.curves += [{"step": state.step, "metric": metric, "value": value} for metric, value in metrics.items()]
    hooks.on_log(state.step, metrics)


def _save(state: State, trainer: Any, config: Config, folder: Path) -> None:
    saved: dict[str, Any] = {"step": state.step, "seconds": state.seconds, "curves": state.curves}
    if (classes := Classes.of(config.data).description) != FOREGROUND:
        saved["classes"] = classes
    saved |= {"network": state.network.state_dict(), "optimiser": trainer.optimizer.state_dict()}
    if trainer.grad_scaler is not None:
        saved["scaler"] = trainer.grad_scaler.state_dict()
    checkpoints.save(folder, state.step, saved, ended=state.step == config.steps)


def _restore(state: State, trainer: Any, config: Config, folder: Path, device: torch.device) -> None:
    saved = checkpoints.load(folder, device, state.network, Classes.of(config.data).description, config.steps)
    if saved is None:
        return
    state.step, state.curves = saved["step"], saved["curves"]
    state.seconds = state.resumed = saved["seconds"]
    state.network.load_state_dict(saved["network"])
    if state.step == config.steps:  # the training has ended
        return
    trainer.optimizer.load_state_dict(saved["optimiser"])
    if trainer.grad_scaler is not None:
        trainer.grad_scaler.load_state_dict(saved["scaler"])
