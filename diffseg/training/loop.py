"""The training loop, shared by all experiments."""

import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from diffseg.config import Config, Training
from diffseg.data.splits import Split
from diffseg.errors import Pruned, Stopped
from diffseg.experiments import build_experiment
from diffseg.rows import Row
from diffseg.training.batches import Batches
from diffseg.training.curves import StepRecords
from diffseg.training.hooks import Hooks
from diffseg.training.parallel import SINGLE_PROCESS, Workers
from diffseg.training.state import TrainingState, set_learning_rate
from diffseg.training.step import choose_step

Measure = Callable[[TrainingState], list[Row]]


def train(
    config: Config,
    split: Split,
    state: TrainingState,
    folder: Path,
    measure: Measure,
    due: Collection[int],
    hooks: Hooks = Hooks(),
    workers: Workers = SINGLE_PROCESS,
) -> None:
    """Train from `state.step` to the end, and leave checkpoints in the folder.

    Args:
        config: The trial's configuration.
        split: The training images.
        state: The training to begin or resume; it is changed in place.
        folder: The folder of the checkpoints. Of several workers, only the first one writes.
        measure: Measures the network at the steps that are due. Its rows are kept in `state.snapshots` with their
            step, except those of single images; rows with a metric are also passed to `hooks.on_evaluation`.
        due: Numbers of finished steps at which to measure.
        hooks: Functions of the caller. Of several workers, only the first one has any.
        workers: The processes that train together.

    Raises:
        Stopped: A hook asked to stop. A checkpoint is left.
        Pruned: A hook ended the training early.
        Diverged: A loss or gradient norm is not finite. No checkpoint holds such a step.
        UserError: Memory is too short even for parts of a batch.
    """
    training = config.training
    batches, objective = Batches(split, config), build_experiment(config)
    run_step = choose_step(objective, state, config, split.device, workers)
    records, clock = StepRecords(training.log_every, split.device), time.perf_counter()
    state.network.train()
    while True:
        if state.step in due and not any(row["step"] == state.step for row in state.snapshots):
            records.check(state.step)  # a network that has diverged is neither measured nor saved
            _take_snapshot(state, measure, folder, hooks, workers)
            clock = time.perf_counter()
        if state.step == training.steps:
            return
        rate = _schedule_learning_rate(state.optimiser, training, state.step)
        images, masks = batches(state.step)
        outcome = run_step(images, masks)
        if outcome is None:  # out of memory: try the step again in smaller parts
            continue
        objective.refresh(state.network, state.step + 1)
        _update_average(state, training.ema)
        if state.averages:
            state.averages.update(state.network, state.step + 1)
        records.add(*outcome)
        state.step += 1

        stopping, saving = workers.any(hooks.should_stop(), hooks.should_save())
        finished = state.step == training.steps
        checkpointing = stopping or saving or finished or state.step % training.checkpoint_every == 0
        if checkpointing or state.step % training.log_every == 0:
            metrics = records.read(state.step) | {"learning_rate": rate}
            state.curves += [{"step": state.step, "metric": name, "value": value} for name, value in metrics.items()]
            state.seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            hooks.on_log(state.step, metrics)
        if checkpointing and workers.is_first:
            state.save(folder)
        if stopping:
            raise Stopped(f"stopped at step {state.step} of {training.steps}")


def _take_snapshot(state: TrainingState, measure: Measure, folder: Path, hooks: Hooks, workers: Workers) -> None:
    """Measure the network on the first worker and share the rows.

    Raises:
        Stopped: A hook asked to stop. The checkpoint that is left resumes before the measurement.
        Pruned: A hook ended the training.
    """
    rows, end = workers.broadcast(_measure(state, measure, hooks) if workers.is_first else ([], None))
    state.snapshots += rows
    if isinstance(end, Stopped) and workers.is_first:
        state.save(folder)
    if end:
        raise end


def _measure(state: TrainingState, measure: Measure, hooks: Hooks) -> tuple[list[Row], Stopped | Pruned | None]:
    """Return the measurement's rows without those of single images, and the exception that ends the training here, if any."""
    try:
        rows = measure(state)
    except Stopped as end:
        return [], end
    evaluated = [row for row in rows if "metric" in row]
    reason = hooks.on_evaluation(state.step, evaluated) if evaluated else None
    kept = [{"step": state.step, **row} for row in rows if "image" not in row]
    return kept, Pruned(reason) if reason else None


def _schedule_learning_rate(optimiser: torch.optim.Optimizer, training: Training, step: int) -> float:
    """Set and return the learning rate of a step: linear warm-up times decay over the last steps."""
    falling = min(training.decay_steps or training.steps, max(1, training.steps - training.warmup))
    done = max(0.0, 1 - (training.steps - step) / falling)
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[training.decay]
    rate = training.learning_rate * decay
    if step < training.warmup:
        rate *= (step + 1) / training.warmup
    set_learning_rate(optimiser, rate)
    return rate


@torch.no_grad()
def _update_average(state: TrainingState, decay: float) -> None:
    """Move the EMA of the weights towards the weights, and copy the buffers.

    Early on the decay is (1 + n)/(10 + n) after n steps, so that the initial weights are forgotten soon.
    """
    decay = min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - decay)
    for average, buffer in zip(state.average.buffers(), state.network.buffers(), strict=True):
        average.copy_(buffer)
