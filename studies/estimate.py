"""What a trial costs, before it runs: parameters and floating-point operations counted on the meta device."""

import time
from dataclasses import dataclass
from functools import lru_cache

from diffseg.config import Config, Network

UNKNOWN_TEST_IMAGES = 100  # assumed where a data set's size is not set


@dataclass(frozen=True)
class Cost:
    parameters: int
    flops: float  # of the whole trial: training, errors over t, prediction


def cost(config: Config) -> Cost:
    """The cost of a trial. Prediction of large images by tiles is counted as one tile an image."""
    parameters, forward = _forward(config.network, config.experiment, config.data.size)
    training, inference = config.training, config.inference
    passes = 3 * training.steps * training.batch  # the backward pass costs two forward ones
    if config.experiment != "e1":
        passes += len(training.snapshots) * inference.timesteps * inference.timestep_images
    if config.experiment in ("e1", "e2"):
        steps = 1 if config.experiment == "e1" else inference.steps
        passes += (config.data.test_images or UNKNOWN_TEST_IMAGES) * inference.ensemble * steps
    return Cost(parameters, passes * forward)


@lru_cache
def _forward(network: Network, experiment: str, size: int) -> tuple[int, int]:
    """(parameters, floating-point operations of one image's forward pass)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from diffseg.experiments import IMAGE_CHANNELS, build_network
    from diffseg.networks import check_size

    check_size(network, size)
    with torch.device("meta"):
        model = build_network(Config(experiment=experiment, network=network))
        x_t = torch.empty(1, model.head.out_channels, size, size)
        image = torch.empty(1, IMAGE_CHANNELS, size, size) if experiment in ("e1", "e2") else None
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x_t, torch.zeros(1), image)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


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
