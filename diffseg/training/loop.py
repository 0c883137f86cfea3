"""The one training loop, for all experiments. Its state is weights, EMA, optimiser and step; all else follows from the step."""

import copy
import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from diffseg.config import Config, Training
from diffseg.data.splits import Split
from diffseg.errors import Diverged, Pruned, Stopped, UserError
from diffseg.experiments import build_network, task
from diffseg.randomness import generator, seed_of
from diffseg.training import checkpoints
from diffseg.training.batches import Batches
from diffseg.training.execution import autocast, for_training, inference_layout, training_layout
from diffseg.training.parallel import ALONE, Workers, is_out_of_memory, normalises_over_batches

log = logging.getLogger(__name__)
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class Hooks:
    """How a run talks to who started it: all should return at once."""

    should_stop: Callable[[], bool] = lambda: False
    should_save: Callable[[], bool] = lambda: False  # whether to leave a checkpoint now, since the machine may go soon
    on_log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None  # between steps
    on_data: Callable[[int, int], None] = lambda done, total: None  # images decoded, where they are not in the cache
    on_evaluation: Callable[[int, dict[str, float]], str | None] = lambda step, metrics: None  # why it is to end there


@dataclass
class State:
    """Everything that a checkpoint holds."""

    network: nn.Module
    average: nn.Module  # the EMA of the weights, which is what is evaluated; with training.ema=0 a copy of them
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # of training
    resumed: float = 0.0  # of them, those before this start
    micro_batch: int = 0  # images that are trained on at once, on one worker
    curves: list[dict] = field(default_factory=list)  # rows of step, metric, value
    snapshots: list[dict] = field(default_factory=list)  # rows of what was measured, with their step

    def save(self, folder: Path) -> None:
        plain = {name: getattr(self, name) for name in ("step", "seconds", "micro_batch", "curves", "snapshots")}
        modules = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        checkpoints.save(folder, self.step, plain | modules)

    def restore(self, folder: Path, device: torch.device, workers: Workers) -> bool:
        """Go on from the newest sound checkpoint in the first worker's folder, if there is one."""
        place = device if workers.count == 1 else "cpu"  # of all of which the others have a device of their own
        saved = workers.told(checkpoints.load(folder, place, self.network) if workers.first else None)
        for key, value in (saved or {}).items():
            if key in ("network", "average", "optimiser"):
                getattr(self, key).load_state_dict(value)
            else:
                setattr(self, key, value)
        for parameter, moments in self.optimiser.state.items():
            _lay_out_as(parameter, moments)
        self.resumed = self.seconds
        return saved is not None


def _lay_out_as(parameter: torch.Tensor, moments: dict[str, torch.Tensor]) -> None:
    """A checkpoint's moments lie in memory as those of the machine that left it, which fused optimisers do not see on processors,
    and refuse on GPUs."""
    for name, moment in moments.items():
        if moment.shape == parameter.shape:
            moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def fresh(config: Config) -> nn.Module:
    """The network with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_network(config)


def start(config: Config, folder: Path, device: torch.device, workers: Workers = ALONE) -> State:
    """The state to go on from: the newest sound checkpoint in the folder, or fresh weights drawn from the seed.

    Raises UserError if the network is to start from pretrained weights that cannot be had, or if several workers are to
    train one that normalises over batches.
    """
    network = fresh(config)
    if workers.count > 1 and normalises_over_batches(network):
        raise UserError(
            f"{config.network.name} normalises over batches, which {workers.count} workers would split: give --workers 1"
        )
    average = copy.deepcopy(network).requires_grad_(False).eval()
    network = network.to(device, memory_format=training_layout(config, device)).train()
    average = average.to(device, memory_format=inference_layout(config, device))
    training = config.training
    optimiser = OPTIMISERS[training.optimiser](
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    state = State(network, average, optimiser, micro_batch=workers.share(training.batch))
    if not state.restore(folder, device, workers) and hasattr(network, "load_pretrained"):
        workers.united(network.load_pretrained)
        average.load_state_dict(network.state_dict())
    return state


def trained(config: Config, folder: Path, device: torch.device, checkpoint: str | None = None) -> nn.Module:
    """The network that a finished training in the folder is evaluated by; nothing is written.

    checkpoint: the file that the training ended with, by the ledger; None for the newest one in the folder.
    Raises UserError if there is no such file, or if it is damaged, of an earlier step or of another network.
    """
    steps = None if config.training.validation else config.training.steps  # with validation the data decide
    network = fresh(config).requires_grad_(False).eval()
    saved = checkpoints.final(folder, checkpoint, steps, "cpu", network)
    try:
        network.load_state_dict(saved["average"])
    except (KeyError, TypeError, RuntimeError):
        raise UserError(
            f"the checkpoint in {folder} holds no average of its network: bring the trial's own back"
        ) from None
    return network.to(device, memory_format=inference_layout(config, device))


def train(
    config: Config,
    split: Split,
    state: State,
    folder: Path,
    snapshot: Callable[[State], list[dict]],
    due: Collection[int],
    hooks: Hooks = Hooks(),
    workers: Workers = ALONE,
) -> None:
    """Train from `state.step` to the end, leaving checkpoints in the folder.

    snapshot(state) measures the network after the steps that are due; its rows are kept with their step, and those of a
    metric are told to the hooks. Of several workers, the first one measures, writes and has hooks.
    Where memory is short, batches are trained on in smaller parts from then on, whose gradients add up to the same.
    Raises Stopped (with a checkpoint left) when asked to stop, Pruned when told to end, Diverged if the loss is not finite.
    """
    training, device = config.training, split.device
    batches, objective = Batches(split, config), task(config)
    network = for_training(state.network, config, device)
    losses = torch.zeros(training.log_every, device=device)  # read only when logged: no host sync inside the step
    logged, clock = state.step, time.perf_counter()
    state.network.train()
    while True:
        if state.step in due and not any(row["step"] == state.step for row in state.snapshots):
            _take_snapshot(state, snapshot, folder, hooks, workers)
            clock = time.perf_counter()
        if state.step == training.steps:
            return
        step = state.step
        rate = _set_learning_rate(state.optimiser, training, step)
        images, masks = batches(step)
        state.optimiser.zero_grad(set_to_none=True)
        loss = _gradients(objective, network, state, images, masks, config, workers)
        if loss is None:
            continue
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), training.clip or math.inf)
        state.optimiser.step()
        objective.learn(state.network, workers)
        _update_average(state, training.ema)
        losses[step - logged] = loss
        state.step = step + 1

        stopping, saving = workers.any(hooks.should_stop(), hooks.should_save())
        checkpointing = (
            stopping or saving or state.step % training.checkpoint_every == 0 or state.step == training.steps
        )
        if checkpointing or state.step % training.log_every == 0:
            metrics = _log(state, losses[: state.step - logged], logged, rate, norm)
            state.seconds += time.perf_counter() - clock
            logged, clock = state.step, time.perf_counter()
            hooks.on_log(state.step, metrics)
        if checkpointing and workers.first:
            state.save(folder)
        if stopping:
            raise Stopped(f"stopped at step {state.step} of {training.steps}")


def _gradients(
    objective, network: nn.Module, state: State, images, masks, config: Config, workers: Workers
) -> torch.Tensor | None:
    """Leave the gradients of the batch's mean loss, which is returned; None if memory is too short for as many images at once,
    which are fewer the next time. Raises UserError if it is too short for a single one."""
    step, batch, device = state.step, len(images), images.device
    total, problem = torch.zeros((), device=device), None
    try:
        for part in workers.parts(batch, state.micro_batch):
            # Modules that drop at random draw from torch's own generator.
            torch.manual_seed(seed_of(config.seed, "dropout", step, part.start))
            with autocast(config, device):
                loss = objective.loss(network, images, masks, generator(device, config.seed, "noise", step), part)
            loss = loss * ((part.stop - part.start) / batch)
            loss.backward()
            total += loss.detach()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).split("\n")[0]
    (short,) = workers.any(problem is not None)
    if short:
        _take_fewer(state, config, problem or "so says another worker")
        objective.forget(network)
        return None
    workers.add_up([total, *(one.grad for one in network.parameters() if one.grad is not None)])
    return total


def _take_fewer(state: State, config: Config, problem: str) -> None:
    """Halve the images that are trained on at once. Raises UserError if that cannot be."""
    if state.micro_batch == 1 or normalises_over_batches(state.network):
        why = (
            "one image"
            if state.micro_batch == 1
            else f"{state.micro_batch}, over which {config.network.name} normalises"
        )
        raise UserError(
            f"out of memory at step {state.step + 1} with a batch of {why} ({problem}): lower data.size or training.batch, take "
            "a smaller network, or give the trial more memory (--gpus 1, fewer trials side by side by --concurrency)"
        )
    state.micro_batch = -(-state.micro_batch // 2)
    log.warning("out of memory (%s): from now on %d images at once", problem, state.micro_batch)
    state.optimiser.zero_grad(set_to_none=True)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _take_snapshot(state: State, snapshot: Callable, folder: Path, hooks: Hooks, workers: Workers) -> None:
    """Measure the network; when stopped meanwhile, leave a checkpoint from which it is measured again."""
    rows, end = workers.told(_snapshot(state, snapshot, hooks) if workers.first else None)
    state.snapshots += rows
    if isinstance(end, Stopped) and workers.first:
        state.save(folder)
    if end:
        raise end


def _snapshot(state: State, snapshot: Callable, hooks: Hooks) -> tuple[list[dict], Stopped | Pruned | None]:
    """(rows, why the training ends here if it does)."""
    try:
        rows = [{"step": state.step, **row} for row in snapshot(state)]
    except Stopped as end:
        return [], end
    metrics = {row["metric"]: row["value"] for row in rows if "metric" in row}
    reason = hooks.on_evaluation(state.step, metrics) if metrics else None
    return rows, Pruned(reason) if reason else None


def _set_learning_rate(optimiser, training: Training, step: int) -> float:
    falling = min(training.decay_steps or training.steps, max(1, training.steps - training.warmup))
    done = max(0.0, 1 - (training.steps - step) / falling)
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[training.decay]
    rate = training.learning_rate * decay
    if step < training.warmup:
        rate *= (step + 1) / training.warmup
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    """EMA of the weights; early on the decay is (1 + n)/(10 + n), so that the start is forgotten."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - decay)
    for average, buffer in zip(state.average.buffers(), state.network.buffers(), strict=True):
        average.copy_(buffer)


def _log(state: State, losses: torch.Tensor, first: int, rate: float, norm: torch.Tensor) -> dict[str, float]:
    """A point of the learning curves: the mean loss since the last one. Raises Diverged at the first bad step."""
    values = losses.tolist()
    for step, value in enumerate(values, first):
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at step {step + 1}: "
                "lower training.learning_rate, set training.clip=1, or check the images for constant or extreme values"
            )
    metrics = {"loss": sum(values) / len(values), "gradient_norm": float(norm), "learning_rate": rate}
    state.curves += [{"step": state.step, "metric": metric, "value": value} for metric, value in metrics.items()]
    return metrics
