"""What a trial costs, before it runs: parameters and floating-point operations counted on the meta device."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from diffseg.config import Config, Data, Diffusion, NetworkSettings

UNKNOWN_TEST_IMAGES = 100  # assumed where a data set's size is not set
STATE = 5 * 4  # bytes a parameter: weights, gradient, two moments, EMA, in float32


@dataclass(frozen=True)
class Cost:
    parameters: int
    flops: float  # of the whole trial: training, errors over t, prediction
    memory: int  # bytes of a training step in float32: weights, optimiser, what the backward pass needs


@dataclass(frozen=True)
class Pass:
    """A network's forward pass of one image."""

    flops: int
    saved: int  # bytes that are kept for the backward pass


def estimate_costs(configs: Iterable[Config]) -> list[Cost]:
    """Of trials one after the other: those that differ only in how they predict are trained once."""
    found, seen = [], set()
    for config in configs:
        found.append(estimate_cost(config, trained=config.trained in seen))
        seen.add(config.trained)
    return found


def estimate_cost(config: Config, workers: int = 1, trained: bool = False) -> Cost:
    """The cost of a trial, which may find its network trained, and the memory of each of its workers. Prediction by tiles is
    counted as one tile an image."""
    parameters, forward, batch = _network(config)
    inference, tests = config.inference, config.data.test_images or UNKNOWN_TEST_IMAGES
    networks = max(1, len(inference.seeds))
    alone = 0.5 if config.diffusion.self_conditioning else 0  # estimates in half of the steps
    passes = (
        0 if inference.seeds or trained else (3 + alone) * config.steps * batch
    )  # the backward pass costs two forward ones
    if config.experiment != "e1" and not trained:
        passes += len(config.training.snapshots) * inference.timesteps * inference.timestep_images
    evaluated = tests + len(config.training.evaluations) * inference.evaluation_images  # images that are segmented
    if config.experiment in ("e1", "e2"):
        passes += evaluated * config.network.implementation().evaluations_per_image(config) * networks
    memory = STATE * parameters + -(-batch // workers) * forward.saved
    return Cost(parameters * networks, passes * forward.flops, memory)


def _network(config: Config) -> tuple[int, Pass, int]:
    """(parameters, forward pass, batch) of a configuration's network."""
    config.network.check_size(config.data.size)
    if (own := _own_plan(config.network, config.data)) is not None:
        return own
    data = Data(size=config.data.size, channels=config.data.channels)  # what the network depends on
    channels = {"variance": config.diffusion.variance, "self_conditioning": config.diffusion.self_conditioning}
    parameters = _parameters(config.network, config.experiment, Diffusion(**channels), data)
    forward = _pass(config.network, config.experiment in ("e1", "e2"), data)
    return parameters, forward, config.training.batch


@lru_cache
def _parameters(network: NetworkSettings, experiment: str, diffusion: Diffusion, data: Data) -> int:
    import torch

    from diffseg.experiments import build_network

    config = Config(experiment=experiment, network=network, data=data, diffusion=diffusion)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())


@lru_cache
def _own_plan(network: NetworkSettings, data: Data) -> tuple[int, Pass, int] | None:
    """(parameters, forward pass, batch) of a network that plans itself from the data; None for others."""
    import torch

    planned = network.implementation().plan(data)
    if planned is None:
        return None
    module, batch = planned
    forward = _measured(module, (torch.empty(1, data.channels, data.size, data.size, device="meta"),))
    return sum(parameter.numel() for parameter in module.parameters()), forward, batch


@lru_cache
def _pass(network: NetworkSettings, conditioned: bool, data: Data) -> Pass:
    """With the image or without; that the outputs differ between experiments hardly matters."""
    import torch

    from diffseg.experiments import build_network

    config = Config(experiment="e1" if conditioned else "e3", network=network, data=data)
    with torch.device("meta"):
        image = torch.empty(1, data.channels, data.size, data.size) if conditioned else None
        return _measured(build_network(config), (torch.empty(1, 1, data.size, data.size), torch.zeros(1), image))


def _measured(model, inputs: tuple) -> Pass:
    """Counts on the meta device: nothing is computed."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    saved, weights = [], {id(parameter) for parameter in model.parameters()}
    keep = lambda tensor: saved.append(tensor) or tensor  # noqa: E731
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    activations = {id(tensor): tensor for tensor in saved if id(tensor) not in weights}.values()
    return Pass(counter.get_total_flops(), sum(tensor.numel() * tensor.element_size() for tensor in activations))


@lru_cache
def measure_flops_per_second(cpus: int) -> float:
    """Convolution throughput of this machine with so many threads, from about 0.2 s of work like a network's."""
    import torch

    torch.set_num_threads(cpus)
    layer, images = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(8, 64, 32, 32)
    operations = 3 * 2 * 9 * 64 * 64 * images[:, 0].numel()
    best = float("inf")
    for _ in range(6):
        clock = time.perf_counter()
        layer(images).sum().backward()
        best = min(best, time.perf_counter() - clock)
    return operations / best
