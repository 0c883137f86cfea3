"""The one training loop, for all experiments. Its state is weights, EMA, optimiser and step; all else follows from the step."""

import copy
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from diffseg import checkpoints
from diffseg.batches import Batches
from diffseg.config import Config, Training
from diffseg.data.splits import Split
from diffseg.errors import Diverged, Pruned, Stopped
from diffseg.experiments import build_network, task
from diffseg.inference import autocast
from diffseg.randomness import generator, seed_of

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
    curves: list[dict] = field(default_factory=list)  # rows of step, metric, value
    snapshots: list[dict] = field(default_factory=list)  # rows of what was measured, with their step

    def save(self, folder: Path) -> None:
        plain = {"step": self.step, "seconds": self.seconds, "curves": self.curves, "snapshots": self.snapshots}
        modules = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        checkpoints.save(folder, self.step, plain | modules)

    def restore(self, folder: Path, device: torch.device) -> bool:
        """Go on from the newest sound checkpoint in the folder, if there is one."""
        saved = checkpoints.load(folder, device)
        for key, value in (saved or {}).items():
            if key in ("network", "average", "optimiser"):
                getattr(self, key).load_state_dict(value)
            else:
                setattr(self, key, value)
        self.resumed = self.seconds
        return saved is not None


def start(config: Config, folder: Path, device: torch.device) -> State:
    """The state to go on from: the newest sound checkpoint in the folder, or fresh weights drawn from the seed.

    Raises UserError if the network is to start from pretrained weights that cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format  # which convolutions like best
    network = network.to(device, memory_format=layout).train()
    average = copy.deepcopy(network).requires_grad_(False).eval()
    training = config.training
    optimiser = OPTIMISERS[training.optimiser](
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    state = State(network, average, optimiser)
    if not state.restore(folder, device) and hasattr(network, "load_pretrained"):
        network.load_pretrained()
        average.load_state_dict(network.state_dict())
    return state


def train(
    config: Config,
    split: Split,
    state: State,
    folder: Path,
    snapshot: Callable[[State], list[dict]],
    due: Collection[int],
    hooks: Hooks = Hooks(),
) -> None:
    """Train from `state.step` to the end, leaving checkpoints in the folder.

    snapshot(state) measures the network after the steps that are due; its rows are kept with their step, and those of a
    metric are told to the hooks.
    Raises Stopped (with a checkpoint left) when asked to stop, Pruned when told to end, Diverged if the loss is not finite.
    """
    training, device = config.training, split.device
    batches, objective = Batches(split, config), task(config).loss
    losses = torch.zeros(training.log_every, device=device)  # read only when logged: no host sync inside the step
    logged, clock = state.step, time.perf_counter()
    state.network.train()
    while True:
        if state.step in due and not any(row["step"] == state.step for row in state.snapshots):
            _take_snapshot(state, snapshot, folder, hooks)
            clock = time.perf_counter()
        if state.step == training.steps:
            return
        step = state.step
        rate = _set_learning_rate(state.optimiser, training, step)
        images, masks = batches(step)
        torch.manual_seed(seed_of(config.seed, "dropout", step))  # modules that drop draw from torch's own generator
        with autocast(config, device):
            loss = objective(state.network, images, masks, generator(device, config.seed, "noise", step))
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), training.clip or math.inf)
        state.optimiser.step()
        _update_average(state, training.ema)
        losses[step - logged] = loss.detach()
        state.step = step + 1

        stopping = hooks.should_stop()
        checkpointing = (
            stopping
            or hooks.should_save()
            or state.step % training.checkpoint_every == 0
            or state.step == training.steps
        )
        if checkpointing or state.step % training.log_every == 0:
            metrics = _log(state, losses[: state.step - logged], logged, rate, norm)
            state.seconds += time.perf_counter() - clock
            logged, clock = state.step, time.perf_counter()
            hooks.on_log(state.step, metrics)
        if checkpointing:
            state.save(folder)
        if stopping:
            raise Stopped(f"stopped at step {state.step} of {training.steps}")


def _take_snapshot(state: State, snapshot: Callable, folder: Path, hooks: Hooks) -> None:
    """Measure the network; when stopped meanwhile, leave a checkpoint from which it is measured again."""
    try:
        rows = snapshot(state)
    except Stopped:
        state.save(folder)
        raise
    state.snapshots += [{"step": state.step, **row} for row in rows]
    metrics = {row["metric"]: row["value"] for row in rows if "metric" in row}
    if metrics and (reason := hooks.on_evaluation(state.step, metrics)):
        raise Pruned(reason)


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
