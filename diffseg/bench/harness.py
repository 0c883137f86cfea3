"""How fast this machine trains and predicts: ways of doing the same, in turns, within one process.

Machines are shared and change their clocks, so what holds are ratios of medians within one run, way by way in the same round.
On GPUs all ways, others' too, compute float32 without TF32 (`computing_device`).
"""

import copy
import ctypes
import gc
import itertools
import json
import logging
import math
import platform
import statistics
import tempfile
import time
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diffseg import data
from diffseg.config import Config
from diffseg.config.presets import names
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.experiments import task
from diffseg.fingerprint.quick import errors_without_training
from diffseg.networks.blocks import Attention
from diffseg.prediction.ensembles import predictions
from diffseg.randomness import generator
from diffseg.training.batches import Batches
from diffseg.training.execution import autocast, for_inference, for_training, inference_layout, training_layout
from diffseg.training.loop import OPTIMISERS, fresh
from diffseg.training.parallel import is_out_of_memory

log = logging.getLogger(__name__)
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the machine's peak
PUBLISHED_STEPS = (100, 50)  # of sampling, with SegDiff and MedSegDiff
SAMPLED_STEPS = (5, 20)  # of one member
TWIN_SIZE, METRICS_SIZE, ESTIMATE_SIZE = 64, 256, 64  # px, where none is given
PARTS = ("training", "prediction", "data", "metrics", "fingerprint")


@dataclass(frozen=True)
class Contest:
    """What is done in several ways, of which the first is what the others are compared with."""

    subject: str
    network: str
    detail: str
    ways: dict[str, Callable[[], object]]
    images: int = 0  # of one call; 0 where it has none
    counted: bool = False  # whether its floating-point operations are
    precisions: dict[str, str] = field(default_factory=dict)  # of ways that are not float32
    once: bool = False  # since a call takes long


def measure(contest: Contest, rounds: int, device: torch.device) -> list[dict]:
    """All ways that fit into memory in turns, `rounds` times: the rows of `told`."""
    seconds: dict[str, list[float]] = {way: [] for way in contest.ways}
    torch.compiler.reset()  # of one forward, torch keeps eight graphs, and computes eagerly what comes after
    ways = {way: call for way, call in contest.ways.items() if contest.once or _fits(call, way)}
    memory = {} if contest.once else {way: _taken(call, device) for way, call in ways.items()}
    flops = _operations(next(iter(ways.values()))) if ways and contest.counted else 0
    for _ in range(1 if contest.once else rounds):
        for way, call in ways.items():
            gc.collect()
            _wait(device)
            clock = time.perf_counter()
            call()
            _wait(device)
            seconds[way].append(time.perf_counter() - clock)
    return told(contest, seconds, device, memory, flops)


def told(
    contest: Contest,
    seconds: dict[str, list[float]],
    device: torch.device,
    memory: dict[str, float] | None = None,
    flops: int = 0,
) -> list[dict]:
    """A row a way: subject, network, detail, way, seconds (median), low and high (quartiles), ratio (to the first way, median
    over rounds), images_per_second, peak_share (of the matrix product's throughput), memory_bytes (`_taken`). NaN is what was
    not measured: all of it, of a way that does not fit into memory."""
    first = seconds[next(iter(contest.ways))]
    rows = []
    for way, taken in seconds.items():
        low, median, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (taken or [math.nan]) * 3
        precision = contest.precisions.get(way, "float32")
        share = flops / median / peak(device.type, precision) if flops else math.nan
        rows.append(
            {
                "subject": contest.subject,
                "network": contest.network,
                "detail": contest.detail,
                "way": way,
                "seconds": median,
                "low": low,
                "high": high,
                "ratio": _ratio(taken, first),
                "images_per_second": contest.images / median if contest.images else math.nan,
                "peak_share": share,
                "memory_bytes": (memory or {}).get(way, math.nan),
            }
        )
    return rows


def _ratio(taken: list[float], first: list[float]) -> float:
    if not taken or not first:
        return math.nan
    return statistics.median(mine / theirs for mine, theirs in zip(taken, first, strict=True))


def _fits(call: Callable[[], object], way: str) -> bool:
    """Whether a call fits into memory; the first one, too, in which what is needed once is compiled, allocated or looked up."""
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("%s does not fit into memory", way)
        return False
    return True


def _operations(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _taken(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors of a call hold on the device at once: activations and gradients, but not what was there before,
    as weights and moments are, nor what kernels hold for themselves."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
        _wait(device)
    with tempfile.TemporaryDirectory() as folder:
        found.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    kind = {"cpu": 0, "cuda": 1}[device.type]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == kind]
    held: dict[int, int] = {}
    now = most = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            held[address] = size
        elif address in held:
            size = -held.pop(address)
        else:
            continue  # what was there before
        now += size
        most = max(most, now)
    return most


def machine(device: torch.device) -> dict:
    """What was measured on, which every row is told with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


_PEAKS: dict[tuple[str, str], float] = {}


def peak(kind: str, precision: str) -> float:
    """Operations a second of a product of large matrices, the best of many, since others may take the machine for a while."""
    if (kind, precision) not in _PEAKS:
        side, dtype = PEAK_SIDE[kind], {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
        a, b = (torch.randn(side, side, device=kind, dtype=dtype) for _ in range(2))
        taken = []
        for _ in range(25):
            clock = time.perf_counter()
            a @ b
            _wait(torch.device(kind))
            taken.append(time.perf_counter() - clock)
        _PEAKS[kind, precision] = 2 * side**3 / min(taken)
    return _PEAKS[kind, precision]


def training_steps(config: Config, device: torch.device, compiled: bool) -> Contest:
    """A step of training: batch, forward, backward, clipping, optimiser, which of the plain transcription is torch's unfused
    default, as in the published loops; and of EnsemDiff as MONAI's tutorials write it."""
    split = data.load(config.data, None).train

    def form(config: Config) -> Callable[[], None]:
        network = fresh(config).to(device, memory_format=training_layout(config, device))
        return _step(config, network, for_training(network, config, device), split.to(device))

    ways = {way: form(config.with_leaves(leaves)) for way, leaves in _forms(compiled).items()}
    network = plain(fresh(config)).to(device)
    ways["plain transcription"] = _step(config.with_leaves(FLOAT32), network, network, split.to(device), fused=None)
    if config.network.name == "ensemdiff":
        ways["MONAI"] = monai_step(config, split, device)
    return _counted("training step", config, ways)


def evaluations(config: Config, device: torch.device, compiled: bool) -> Contest:
    """One evaluation of the network, as each step of sampling takes; and of EnsemDiff by MONAI's."""
    x, t, image = _inputs(config, device)

    def call(config: Config, network: nn.Module) -> Callable[[], None]:
        def evaluate() -> None:
            with torch.inference_mode(), autocast(config, device):
                network(x, t, image)

        return evaluate

    def form(config: Config) -> Callable[[], None]:
        network = fresh(config).eval().to(device, memory_format=inference_layout(config, device))
        return call(config, for_inference(network, config, device))

    ways = {way: form(config.with_leaves(leaves)) for way, leaves in _forms(compiled).items()}
    ways["plain transcription"] = call(config.with_leaves(FLOAT32), plain(fresh(config)).eval().to(device))
    if config.network.name == "ensemdiff":
        ways["MONAI"] = monai_evaluation(config, device)
    return _counted("network evaluation", config, ways)


FLOAT32 = {"training.precision": "float32", "training.compile": False}
BF16 = {**FLOAT32, "training.precision": "bf16"}


def _forms(compiled: bool) -> dict[str, dict]:
    """What a network is computed in, of which the first is what the others are compared with; all in the layout that we give it."""
    fast = {"training.compile": True}
    forms = {"diffseg": FLOAT32, "bf16": BF16}
    return forms | ({"compiled bf16": BF16 | fast, "compiled": FLOAT32 | fast} if compiled else {})


def _counted(subject: str, config: Config, ways: dict) -> Contest:
    """Ways of computing a batch, whose operations are counted."""
    batch = config.training.batch
    detail = f"{config.data.size} px, batch {batch}"
    precisions = {way: "bf16" for way in ways if way.endswith("bf16")}
    return Contest(subject, config.network.name, detail, ways, batch, counted=True, precisions=precisions)


def samplings(config: Config, device: torch.device, images: int) -> Contest:
    """A prediction of a few images."""
    return _sampled(config, {"diffseg": _sampling(config, fresh(config), _first(config, device, images))}, images)


def procedures(config: Config, device: torch.device, images: int) -> Contest:
    """An ensemble's prediction as published, sample after sample with the whole network at every step; all samples in one
    batch; what depends on the image alone computed once; in bf16."""
    float32 = config.with_leaves(FLOAT32)
    single, mixed = (config.with_leaves(leaves) for leaves in (FLOAT32 | {"inference.batch": 1}, BF16))
    network, split = fresh(config), _first(config, device, images)
    ways = {
        "published procedure": _sampling(single, Anew(plain(network)), split),
        "in one batch": _sampling(float32, Anew(network), split),
        "image once": _sampling(float32, network, split),
        "bf16": _sampling(mixed, copy.deepcopy(network), split),
    }
    return _sampled(config, ways, images)


def _first(config: Config, device: torch.device, images: int) -> data.Split:
    """The first test images."""
    return data.load(config.data, None).test.to(device).subset(torch.arange(images, device=device))


def _sampling(config: Config, network: nn.Module, split: data.Split) -> Callable[[], object]:
    network.to(split.device, memory_format=inference_layout(config, split.device)).eval()
    return lambda: list(predictions(network, split, config))


def _sampled(config: Config, ways: dict, images: int) -> Contest:
    detail = f"{config.data.size} px, {config.inference.ensemble} members, {config.inference.steps} steps"
    return Contest("prediction", config.network.name, detail, ways, images)


def gathering(config: Config, device: torch.device) -> Contest:
    """A batch of augmented images, against MONAI's dataset, transforms and DataLoader on the same arrays."""
    split = data.load(config.data, None).train
    batches, steps = Batches(split.to(device), config), iter(range(10**9))
    ways = {"diffseg": lambda: batches(next(steps)), "MONAI": monai_batches(split, config, device)}
    return Contest("batch", "", f"{config.data.size} px, batch {config.training.batch}", ways, config.training.batch)


def metrics(size: int, device: torch.device) -> Contest:
    """IoU and Dice of 64 masks, one by one as the evaluation has them, against MONAI's and torchmetrics'."""
    from monai.metrics import compute_dice, compute_iou
    from torchmetrics.functional.classification import binary_jaccard_index
    from torchmetrics.functional.segmentation import dice_score

    from diffseg.evaluation.metrics import overlap

    draw = torch.Generator().manual_seed(0)
    found, truth = (torch.rand(64, 1, size, size, generator=draw).to(device) > 0.5 for _ in range(2))
    ways = {
        "diffseg": lambda: [overlap(a, b) for a, b in zip(found[:, 0], truth[:, 0], strict=True)],
        "MONAI": lambda: [
            (compute_iou(a[None], b[None]), compute_dice(a[None], b[None])) for a, b in zip(found, truth, strict=True)
        ],
        "torchmetrics": lambda: [
            (binary_jaccard_index(a, b), dice_score(a[None].long(), b[None].long(), num_classes=1))
            for a, b in zip(found, truth, strict=True)
        ],
    }
    return Contest("IoU and Dice", "", f"{size} px, 64 masks", ways, 64)


def estimate(size: int) -> Contest:
    """The fingerprint of synthetic masks without training (`diffseg fingerprint --quick`)."""
    config = Config().with_leaves({"experiment": "e3", "data.size": size}).resolved()
    dataset = data.load(config.data, None)
    detail = f"{size} px, {len(dataset.train.names)} images"
    return Contest("fingerprint", "", detail, {"estimate": lambda: errors_without_training(dataset, config)}, once=True)


def contests(
    parts: Collection[str],
    networks: list[tuple[str, str]],
    size: int | None,
    batches: list[int],
    compiled: bool,
    device: torch.device,
) -> Iterator[Contest]:
    """What `diffseg bench` measures, one after the other, so that a contest's networks are gone before the next one's.

    networks: names and presets, all published or all debug twins. size: px, of all; None for the published presets' own, and
    TWIN_SIZE of the twins.
    """
    _keep_freed_memory()
    if not networks[0][1].startswith("published/"):
        size = size or TWIN_SIZE
    for name, preset in networks:
        for contest in _of_network(parts, partial(_config, name, preset, size), batches, compiled, device):
            yield replace(contest, network=f"{name} {preset}")
    if "data" in parts:
        yield gathering(_config("ensemdiff", "published/brats", size, batches[-1]), device)
    if "metrics" in parts:
        yield metrics(size or METRICS_SIZE, device)
    if "fingerprint" in parts:
        yield estimate(size or ESTIMATE_SIZE)


def _of_network(
    parts: Collection[str],
    configured: Callable[[int], Config],
    batches: list[int],
    compiled: bool,
    device: torch.device,
) -> Iterator[Contest]:
    """configured: by the size of a batch."""
    for batch in batches:
        if "training" in parts:
            yield training_steps(configured(batch), device, compiled)
        if "prediction" in parts:
            yield evaluations(configured(batch), device, compiled)
    if "prediction" not in parts:
        return
    config = configured(1)
    if config.network.name in ("segdiff", "medsegdiff"):
        for steps in PUBLISHED_STEPS:
            leaves = {"inference.steps": steps, "inference.ensemble": 10}
            yield procedures(config.with_leaves(leaves), device, images=2)
    for sampler, steps in itertools.product(SAMPLERS, SAMPLED_STEPS):
        leaves = {"inference.sampler": sampler, "inference.steps": steps, "inference.ensemble": 1}
        yield samplings(config.with_leaves(leaves), device, images=8)


PRESETS = {"ensemdiff": "debug/brats", "segdiff": "debug/monuseg", "medsegdiff": "debug/isic", "ambdiff": "debug/lidc"}


def chosen(networks: Collection[str], preset: str | None) -> list[tuple[str, str]]:
    """Names and presets: those of the networks that have the preset, or all of a kind (`published`, `debug`); of each network a
    debug twin where none is asked for."""
    if preset is None:
        return [(name, PRESETS[name]) for name in networks]
    return [(name, one) for name in networks for one in names(name) if preset in (one, one.partition("/")[0])]


def _config(name: str, preset: str, size: int | None, batch: int) -> Config:
    """E2 on synthetic images."""
    leaves = {"network": name, "preset": preset, "experiment": "e2", "training.batch": batch}
    leaves |= {"data.layout": "synthetic", "data.fit": "resize", "data.scale": 1.0, "data.test_images": 8}
    leaves |= {"data.train_images": 4 * batch} | ({"data.size": size} if size else {})
    leaves |= {"diffusion.variance": "small"} if name == "ensemdiff" else {}  # which MONAI's loop does not learn either
    return Config().with_leaves(leaves).resolved()


def plain(network: nn.Module) -> nn.Module:
    """A copy whose attention is that of guided-diffusion, from which the published networks come."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, Attention):
            module.forward = types.MethodType(_published_attention, module)
    return other


def _published_attention(self, x: torch.Tensor) -> torch.Tensor:
    """Explicit weights, softmax in float32."""
    b, c, *spatial = x.shape
    flat = x.reshape(b, c, -1)
    qkv = self.qkv(self.norm(flat))
    width, length = c // self.heads, flat.shape[-1]
    q, k, v = qkv.reshape(b * self.heads, 3 * width, length).split(width, dim=1)
    scale = width**-0.25
    weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
    h = self.out(torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, length))
    return (flat + h).reshape(b, c, *spatial)


class Anew(nn.Module):
    """A network that computes everything at every step."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x_t, t, image, known=(), **more):
        return self.network(x_t, t, image, **more)


def _inputs(config: Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A noisy mask, its timesteps and its image, of a whole batch."""
    images, masks = Batches(data.load(config.data, None).train.to(device), config)(0)
    return torch.randn_like(masks), torch.arange(len(masks), device=device), images


def _step(
    config: Config, network: nn.Module, called: nn.Module, split: data.Split, fused: bool | None = True
) -> Callable[[], None]:
    """called: the network, compiled or not."""
    objective, batches, device = task(config), Batches(split, config), split.device
    optimiser = OPTIMISERS[config.training.optimiser](network.parameters(), lr=1e-6, fused=fused)
    draw, steps = partial(generator, device, config.seed, "bench"), itertools.count()

    def step() -> None:
        images, masks = batches(next(steps))
        with autocast(config, device):
            loss = objective.loss(called, images, masks, draw())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def monai_network(config: Config) -> nn.Module:
    """MONAI's diffusion U-Net of the same channels, levels and attention."""
    from monai.networks.nets import DiffusionModelUNet

    network = config.network
    channels = [network.width * multiplier for multiplier in network.multipliers]
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1 + config.data.channels,
        out_channels=1,
        num_res_blocks=network.blocks,
        channels=channels,
        attention_levels=[2**depth in network.attention for depth in range(len(channels))],
        norm_num_groups=32,
        num_head_channels=[width // network.heads for width in channels],
    )


def monai_step(config: Config, split: data.Split, device: torch.device) -> Callable[[], None]:
    """A training step as MONAI's tutorials write it: its DataLoader, inferer (image and noisy mask concatenated), Adam."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    net = monai_network(config).to(device)
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=config.diffusion.steps))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-6)
    batches = monai_batches(split, config, device)

    def step() -> None:
        images, masks = batches()
        noise = torch.randn_like(masks)
        t = torch.randint(config.diffusion.steps, (len(masks),), device=device)
        found = inferer(2 * masks - 1, net, noise, t, condition=images, mode="concat")
        optimiser.zero_grad(set_to_none=True)
        F.mse_loss(found, noise).backward()
        optimiser.step()

    return step


def monai_evaluation(config: Config, device: torch.device) -> Callable[[], object]:
    net = monai_network(config).to(device).eval()
    x, t, image = _inputs(config, device)
    return torch.inference_mode()(lambda: net(torch.cat([x, image], dim=1), t))


def monai_batches(split: data.Split, config: Config, device: torch.device) -> Callable[[], object]:
    """MONAI's DataLoader over the same arrays, scaled, flipped and turned by its own transforms."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, RandAxisFlipd, RandRotate90d, ScaleIntensityRanged

    keys = ["image", "mask"]
    transform = Compose(
        [
            ScaleIntensityRanged("image", 0, 255, -1, 1),
            RandAxisFlipd(keys, 0.5),
            RandRotate90d(keys, 0.5),
        ]
    )
    rows = [{"image": split.images[k].float(), "mask": split.masks[k].float()} for k in range(len(split.names))]
    loader = DataLoader(Dataset(rows, transform), batch_size=config.training.batch, shuffle=True, num_workers=0)

    def endless():
        while True:
            yield from loader

    batches = endless()
    return lambda: [part.to(device) for part in next(batches).values()]


def _keep_freed_memory() -> None:
    """As trials' workers do by their environment (`MEMORY` in studies/session.py), here in a process that has started.

    Else the kernel clears large tensors' pages again at every step, of some ways and not of others.
    """
    if platform.system() == "Linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for setting in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(setting, 2**31 - 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
