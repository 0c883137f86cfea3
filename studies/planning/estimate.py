"""The cost of a trial before it runs: parameters, floating-point operations and memory, counted on the meta device."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from diffseg.config import Config, Data, Diffusion, Head, NetworkSettings
from diffseg.config.experiments import Experiment

if TYPE_CHECKING:
    from torch import Tensor, nn

UNKNOWN_TEST_IMAGES = 100  # assumed where data.test_images is not set
STATE = 5 * 4  # bytes a parameter: weights, gradient, two moments and EMA, in float32
SAVED = 4 * 4  # bytes a parameter of a checkpoint: weights, two moments and EMA, in float32
KEPT = 4  # bytes a parameter that remain at the end: the EMA
TRAINING_PASSES = 3  # forward passes that a training step costs: one, and a backward pass that costs two


@dataclass(frozen=True)
class Cost:
    """What a trial costs."""

    parameters: int  # of all networks of an ensemble
    flops: float  # of the whole trial: training, errors over t, prediction
    memory: int  # bytes of a training step in float32: weights, optimiser, and what the backward pass needs
    disk: int  # bytes of the weights that remain at its end
    checkpoints: int  # bytes of the checkpoints while it trains


@dataclass(frozen=True)
class ForwardPass:
    """What a network's forward pass of one image costs."""

    flops: int
    saved: int  # bytes that are kept for the backward pass


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs, whatever it is used for."""

    parameters: int
    forward: ForwardPass
    batch: int  # images of a training step


def estimate_costs(configs: Iterable[Config]) -> list[Cost]:
    """Estimate trials that run one after the other: those that differ only in how they predict are trained once."""
    costs, trained = [], set()
    for config in configs:
        costs.append(estimate_cost(config, trained=config.trained in trained))
        trained.add(config.trained)
    return costs


def estimate_cost(config: Config, workers: int = 1, trained: bool = False) -> Cost:
    """Estimate the cost of a trial. Prediction by tiles is counted as one tile an image.

    Args:
        config: The trial's configuration.
        workers: Processes that share a batch. The memory is that of each of them.
        trained: The trial finds its network trained already.
    """
    from diffseg.training.checkpoints import KEEP  # imports torch, which takes long

    network = _measure_network(config)
    members = max(1, len(config.inference.seeds))
    passes: float = _count_prediction_passes(config) * members
    if not trained:
        passes += _count_training_passes(config, network.batch) + _count_error_passes(config)
    copies = 2 * KEPT * config.training.ema_copies  # bytes a parameter of the averages' copies
    averages = 2 * KEPT if copies else 0
    memory = (STATE + averages) * network.parameters + -(-network.batch // workers) * network.forward.saved
    trains = not trained and not config.inference.seeds
    kept = KEPT * (2 if config.training.validation else 1)  # the network that found the number of epochs stays, too
    disk = 0 if config.inference.seeds else (kept + copies) * network.parameters
    checkpoints = KEEP * (SAVED + averages + copies) * network.parameters if trains else 0
    return Cost(network.parameters * members, passes * network.forward.flops, memory, disk, checkpoints)


def count_parameters(config: Config) -> int:
    """Return the number of parameters of the configuration's network. Raises ConfigError for an unfit size."""
    return _measure_network(config).parameters


def _count_training_passes(config: Config, batch: int) -> float:
    """Return the forward passes of an image that training costs. Deep ensembles train none: their members do.

    Self-conditioning adds a forward pass in half of the steps, recycling in its share of them.
    """
    if config.inference.seeds:
        return 0
    own = (0.5 if config.diffusion.self_conditioning else 0) + config.diffusion.recycling
    return (TRAINING_PASSES + own) * config.steps * batch


def _count_error_passes(config: Config) -> int:
    """Return the forward passes that measure the errors over the noise levels, at every snapshot."""
    if config.experiment == "e1":
        return 0
    return len(config.training.snapshots) * config.inference.timesteps * config.inference.timestep_images


def _count_prediction_passes(config: Config) -> int:
    """Return the forward passes of one network that segment the test images, and images for evaluations in training."""
    if config.experiment not in ("e1", "e2"):
        return 0
    tests = config.data.test_images or UNKNOWN_TEST_IMAGES
    images = tests + len(config.training.evaluations) * config.inference.evaluation_images
    return images * config.network.implementation().evaluations_per_image(config)


def _measure_network(config: Config) -> NetworkCost:
    """Count the parameters and the forward pass of the configuration's network. Raises ConfigError for an unfit size."""
    config.network.check_size(config.data.size)
    if planned := _measure_planned(config.network, config.data):
        return planned
    own, process = config.data, config.diffusion
    data = Data(size=own.size, channels=own.channels)  # what the network depends on, with the next two
    classed = Data(size=own.size, channels=own.channels, classes=own.classes, regions=own.regions)
    diffusion = Diffusion(variance=process.variance, self_conditioning=process.self_conditioning, coding=process.coding)
    parameters = _count_parameters(config.network, config.experiment, diffusion, classed, config.head)
    forward = _measure_built(config.network, config.experiment in ("e1", "e2"), data)
    return NetworkCost(parameters, forward, config.training.batch)


@lru_cache
def _measure_planned(network: NetworkSettings, data: Data) -> NetworkCost | None:
    """Measure a network that plans itself from the data; None for others."""
    import torch

    planned = network.implementation().plan(data)
    if planned is None:
        return None
    module, batch = planned
    forward = _measure_forward(module, torch.empty(1, data.channels, data.size, data.size, device="meta"))
    return NetworkCost(sum(parameter.numel() for parameter in module.parameters()), forward, batch)


@lru_cache
def _count_parameters(
    network: NetworkSettings, experiment: Experiment, diffusion: Diffusion, data: Data, head: Head
) -> int:
    """Return the number of parameters of a network that is built for these settings."""
    import torch

    from diffseg.experiments import build_network

    config = Config(experiment=experiment, network=network, data=data, diffusion=diffusion, head=head)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())


@lru_cache
def _measure_built(network: NetworkSettings, conditioned: bool, data: Data) -> ForwardPass:
    """Measure a network with the image or without. The outputs, which differ between experiments, cost hardly anything."""
    import torch

    from diffseg.experiments import build_network

    config = Config(experiment="e1" if conditioned else "e3", network=network, data=data)
    with torch.device("meta"):
        image = torch.empty(1, data.channels, data.size, data.size) if conditioned else None
        mask = torch.empty(1, 1, data.size, data.size)
        return _measure_forward(build_network(config), mask, torch.zeros(1), image)


def _measure_forward(model: "nn.Module", *inputs: "Tensor | None") -> ForwardPass:
    """Run a model on the meta device, where nothing is computed, and count what it would compute and keep."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    saved: dict[int, Tensor] = {}  # by identity: a tensor that several operations keep is kept once

    def keep(tensor: "Tensor") -> "Tensor":
        saved[id(tensor)] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    weights = {id(parameter) for parameter in model.parameters()}
    activations = [tensor for key, tensor in saved.items() if key not in weights]
    return ForwardPass(counter.get_total_flops(), sum(tensor.numel() * tensor.element_size() for tensor in activations))
