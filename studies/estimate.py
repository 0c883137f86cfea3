"""What a trial costs, before it runs: parameters and floating-point operations counted on the meta device."""

import time
from dataclasses import dataclass
from functools import lru_cache

from diffseg.config import Config, Data, Diffusion, Network

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

    parameters: int
    flops: int
    saved: int  # bytes that are kept for the backward pass


def cost(config: Config) -> Cost:
    """The cost of a trial. Prediction of large images by tiles is counted as one tile an image."""
    training, inference, experiment = config.training, config.inference, config.experiment
    tests = config.data.test_images or UNKNOWN_TEST_IMAGES
    if config.network.name == "nnunet":
        import torch

        from diffseg.nnunet import planned

        network, batch = planned(config)
        forward = _measured(network, (torch.empty(1, 3, config.data.size, config.data.size, device="meta"),))
        passes = 3 * batch * config.network.epochs * config.network.iterations
        passes += tests * (4 if config.network.mirroring else 1)
        return Cost(forward.parameters, passes * forward.flops, STATE * forward.parameters + batch * forward.saved)
    forward = _pass(config.network, experiment, config.data.size, config.diffusion.variance)
    passes = 3 * config.steps * training.batch  # the backward pass costs two forward ones
    if experiment != "e1":
        passes += len(training.snapshots) * inference.timesteps * inference.timestep_images
    if experiment in ("e1", "e2"):
        passes += tests * inference.ensemble * (1 if experiment == "e1" else inference.steps)
    memory = STATE * forward.parameters + training.batch * forward.saved
    return Cost(forward.parameters, passes * forward.flops, memory)


@lru_cache
def _pass(network: Network, experiment: str, size: int, variance: str) -> Pass:
    import torch

    from diffseg.experiments import IMAGE_CHANNELS, MASK_CHANNELS, build_network
    from diffseg.networks import check_size

    check_size(network, size)
    config = Config(
        experiment=experiment, network=network, data=Data(size=size), diffusion=Diffusion(variance=variance)
    )
    with torch.device("meta"):
        model = build_network(config)
        x_t = torch.empty(1, IMAGE_CHANNELS if experiment == "e4" else MASK_CHANNELS, size, size)
        image = torch.empty(1, IMAGE_CHANNELS, size, size) if experiment in ("e1", "e2") else None
        return _measured(model, (x_t, torch.zeros(1), image))


def _measured(model, inputs: tuple) -> Pass:
    """Counts on the meta device: nothing is computed."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    saved, weights = [], {id(parameter) for parameter in model.parameters()}
    keep = lambda tensor: saved.append(tensor) or tensor  # noqa: E731
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    activations = {id(tensor): tensor for tensor in saved if id(tensor) not in weights}.values()
    return Pass(
        sum(parameter.numel() for parameter in model.parameters()),
        counter.get_total_flops(),
        sum(tensor.numel() * tensor.element_size() for tensor in activations),
    )


@lru_cache
def flops_per_second(cpus: int) -> float:
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
