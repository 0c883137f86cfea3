"""The state of a training: what a checkpoint holds, how a training starts or resumes, and what prediction loads."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.experiments import build_network
from diffseg.labels.classes import FOREGROUND
from diffseg.labels.labels import Labels
from diffseg.rows import Row
from diffseg.training import checkpoints
from diffseg.training.execution import inference_layout, move_network, training_layout
from diffseg.training.parallel import SINGLE_PROCESS, Workers, normalises_over_batches
from diffseg.training.posthoc_ema import PowerAverages, load_average, read_copies

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MODULES = ("network", "average", "optimiser")  # saved by their state dictionaries
VALUES = ("step", "seconds", "micro_batch", "curves", "snapshots")  # saved as they are


@dataclass
class TrainingState:
    """Everything that a checkpoint holds. Batches, noise and learning rates follow from the step."""

    network: nn.Module
    average: nn.Module  # the EMA of the weights, which is evaluated; with training.ema=0 a copy of them
    optimiser: torch.optim.Optimizer
    steps: int  # after which the training ends; not in checkpoints
    step: int = 0
    seconds: float = 0.0  # of training
    resumed: float = 0.0  # the part of `seconds` spent before this start
    execution: str = "eager"  # how steps run: eager, graph or compiled; not in checkpoints
    micro_batch: int = 0  # images per forward and backward pass, on one worker
    curves: list[Row] = field(default_factory=list)  # rows of step, metric, value
    snapshots: list[Row] = field(default_factory=list)  # measurements of the network, with their step
    classes: str = FOREGROUND  # description of the classes of the masks; in checkpoints of other ones
    averages: PowerAverages | None = None  # for averages of any length; with training.ema_copies

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step into the folder. That of the last step holds no more than prediction needs."""
        values = {name: getattr(self, name) for name in VALUES}
        modules = {name: getattr(self, name).state_dict() for name in MODULES}
        for group in modules["optimiser"]["param_groups"]:
            group |= {"lr": float(group["lr"]), "capturable": False}  # as on a CPU: checkpoints move between devices
        classes = {} if self.classes == FOREGROUND else {"classes": self.classes}
        ended = self.step == self.steps
        averages = {"averages": self.averages.state_dict(ended)} if self.averages else {}
        checkpoints.save(folder, self.step, values | modules | classes | averages, ended)

    def restore(self, folder: Path, device: torch.device, workers: Workers) -> bool:
        """Load the newest sound checkpoint of the first worker's folder; return whether there is one.

        A training that has ended has kept its averaged weights alone, which then stand for the others, too.
        """
        place = device if workers.count == 1 else "cpu"  # every worker then copies it to its own device
        found = checkpoints.load(folder, place, self.network, self.classes, self.steps) if workers.is_first else None
        saved = workers.broadcast(found)
        if saved is not None and "network" not in saved:
            saved["network"] = saved["average"]
        for key, value in (saved or {}).items():
            if key in (*MODULES, "averages"):
                getattr(self, key).load_state_dict(value)
            else:
                setattr(self, key, value)
        for parameter, moments in self.optimiser.state.items():
            _match_memory_layout(parameter, moments)
        _make_capturable(self.optimiser, device)
        self.resumed = self.seconds
        return saved is not None


def _make_capturable(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Let CUDA graphs capture the optimiser's steps: its learning rate becomes a tensor on the GPU that graphs read."""
    if device.type == "cuda":
        for group in optimiser.param_groups:
            group |= {"lr": torch.tensor(float(group["lr"]), device=device), "capturable": True}


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next steps, in place where graphs read it."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _match_memory_layout(parameter: torch.Tensor, moments: dict[str, torch.Tensor]) -> None:
    """Give the optimiser's moments the memory layout of their parameter.

    A checkpoint may come from a machine with another layout. Fused optimisers ignore the difference on CPUs, and so
    compute wrong numbers, and refuse it on GPUs.
    """
    for name, moment in moments.items():
        if moment.shape == parameter.shape:
            moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def initialise_network(config: Config) -> nn.Module:
    """Build the network with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_network(config)


def start_or_resume(
    config: Config, folder: Path, device: torch.device, workers: Workers = SINGLE_PROCESS
) -> TrainingState:
    """Load the newest sound checkpoint in the folder, or start with weights drawn from the seed.

    Raises:
        UserError: The network starts from pretrained weights that are not available, or several workers are to train a
            network that normalises over batches.
    """
    state = start(config, device, workers)
    load_pretrained: Callable[[], None] | None = getattr(state.network, "load_pretrained", None)
    if not state.restore(folder, device, workers) and load_pretrained:
        workers.run_on_all(load_pretrained)
        state.average.load_state_dict(state.network.state_dict())
    return state


def start(config: Config, device: torch.device, workers: Workers = SINGLE_PROCESS) -> TrainingState:
    """Return a training that has done no step, with weights drawn from the seed.

    Raises:
        UserError: Several workers are to train a network that normalises over batches.
    """
    network = initialise_network(config)
    if workers.count > 1 and normalises_over_batches(network):
        raise UserError(
            f"{config.network.name} normalises over batches, which {workers.count} workers would split: give --workers 1"
        )
    average = copy.deepcopy(network).requires_grad_(False).eval()
    network = move_network(network, device, training_layout(config, device)).train()
    average = move_network(average, device, inference_layout(config, device))
    training = config.training
    optimiser = OPTIMISERS[training.optimiser](
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    _make_capturable(optimiser, device)
    micro_batch, classes = workers.largest_share(training.batch), Labels.of(config).classes.description
    averages = PowerAverages(network, training.steps, training.ema_copies) if training.ema_copies else None
    return TrainingState(
        network, average, optimiser, training.steps, micro_batch=micro_batch, classes=classes, averages=averages
    )


def load_trained(config: Config, folder: Path, device: torch.device, checkpoint: str | None = None) -> nn.Module:
    """Load the averaged weights of a finished training for prediction. The folder is only read.

    Args:
        config: The trial's configuration.
        folder: The folder of its checkpoints.
        device: The device to load the network on.
        checkpoint: The file that the ledger names as the training's last; None for the newest file in the folder.

    Raises:
        UserError: The file is missing, damaged, of an earlier step, of another network or of other classes.
    """
    steps = None if config.training.validation else config.training.steps  # epoch selection sets it from the data
    network = initialise_network(config).requires_grad_(False).eval()
    classes = Labels.of(config).classes.description
    saved = checkpoints.load_final(folder, checkpoint, steps, "cpu", network, classes)
    try:
        network.load_state_dict(saved["average"])
    except (KeyError, TypeError, RuntimeError):
        raise UserError(
            f"the checkpoint in {folder} holds no average of its network: bring the trial's own back"
        ) from None
    if config.inference.ema_length:
        load_average(network, read_copies(saved["averages"]), config.inference.ema_length)
    return move_network(network, device, inference_layout(config, device))
