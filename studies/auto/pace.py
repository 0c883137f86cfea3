"""How fast this machine trains and predicts: a few steps of the real code, on random images."""

import statistics
import time
from dataclasses import dataclass

import torch

from diffseg.config import Config
from diffseg.data.packing import PackedImages
from diffseg.data.scaling import Scaling
from diffseg.data.splits import Split
from diffseg.experiments import build_experiment
from diffseg.labels.classes import Classes
from diffseg.prediction.ensembles import predict_split
from diffseg.randomness import generator
from diffseg.threads import limited_threads
from diffseg.training.batches import Batches
from diffseg.training.execution import choose_device
from diffseg.training.parallel import SINGLE_PROCESS
from diffseg.training.state import start
from diffseg.training.step import WARM_UP, choose_step

STEPS = 3  # that are timed
LONGEST = 20.0  # seconds after the warm-up, from which no further step is timed


@dataclass(frozen=True)
class Pace:
    """Seconds that a trial's parts take on this machine."""

    step: float  # a training step
    image: float  # the prediction of an image, or of a tile, of data.size px


def measure_pace(config: Config, cpus: float, gpus: float) -> Pace:
    """Time the training steps and the prediction of a trial that has these CPUs, or a share of a GPU."""
    device = choose_device("cuda" if gpus else "cpu")
    with limited_threads(round(cpus)):
        split = _draw_split(config).to(device)
        found = Pace(_time_steps(config, split, device), _time_prediction(config, split, device))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    sharing = 1 / gpus if 0 < gpus < 1 else 1.0  # trials that take turns on the GPU
    return Pace(found.step * sharing, found.image * sharing)


def _time_steps(config: Config, split: Split, device: torch.device) -> float:
    """Return the median of a few steps, after those in which libraries and graphs warm up."""
    state = start(config, device)
    step, batches = choose_step(build_experiment(config), state, config, device, SINGLE_PROCESS), Batches(split, config)
    warm_up, taken, begin = WARM_UP + 1 if device.type == "cuda" else 1, list[float](), time.perf_counter()
    while len(taken) < STEPS and (not taken or time.perf_counter() - begin < LONGEST):
        clock = time.perf_counter()
        outcome = step(*batches(state.step))
        if outcome is None:  # memory was too short: the batch is halved
            continue
        float(outcome[0])  # waits for the device
        state.step += 1
        if state.step > warm_up:
            taken.append(time.perf_counter() - clock)
        else:
            begin = time.perf_counter()
    return statistics.median(taken)


def _time_prediction(config: Config, split: Split, device: torch.device) -> float:
    """Return the seconds an image of a batch of predictions takes."""
    state = start(config, device)
    count = max(1, config.inference.batch // config.inference.ensemble)
    some = split.subset(torch.arange(min(count, len(split.names))))
    clock = time.perf_counter()
    for prediction in predict_split(state.average, some, config):
        float(prediction.mean.sum())
    return (time.perf_counter() - clock) / len(some.names)


def _draw_split(config: Config) -> Split:
    """Return random images and masks of the network's size."""
    size, count, draw = config.data.size, max(config.training.batch, 16), generator("cpu", 0, "pace")
    images = torch.randint(0, 256, (count, config.data.channels, size, size), dtype=torch.uint8, generator=draw)
    masks = torch.randint(0, Classes.of(config.data).count + 1, (count, 1, size, size), generator=draw).byte()
    channels = config.data.channels
    return Split(
        names=tuple(map(str, range(count))),
        groups=(None,) * count,
        images=PackedImages.pack(list(images)),
        masks=PackedImages.pack(list(masks)),
        objects=(1,) * count,
        spacings=(None,) * count,
        originals=((size, size),) * count,
        scaling=Scaling((0.0,) * channels, (255.0,) * channels, (0.0,) * channels, (1.0,) * channels),
        standard=False,
        channels=channels,
        device=torch.device("cpu"),
    )
