"""The contests of `diffseg bench`: what is timed against what."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from diffseg import data
from diffseg.bench.harness import Contest, keep_freed_memory
from diffseg.bench.peers import Anew, inputs, monai_batches, monai_evaluation, monai_step, plain
from diffseg.config import NETWORKS, Config
from diffseg.config.presets import names
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.experiments import build_network, task
from diffseg.fingerprint.quick import estimate_mask_error
from diffseg.prediction.ensembles import predictions
from diffseg.randomness import generator
from diffseg.training.batches import Batches
from diffseg.training.execution import autocast, for_inference, for_training, inference_layout, training_layout
from diffseg.training.loop import OPTIMISERS, fresh

PUBLISHED_STEPS = (100, 50)  # of sampling, with SegDiff and MedSegDiff


SAMPLED_STEPS = (5, 20)  # of one member


TWIN_SIZE, METRICS_SIZE, ESTIMATE_SIZE = 64, 256, 64  # px, where none is given
PARTS = ("training", "prediction", "data", "metrics", "fingerprint")


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
    if "MONAI" in config.network.peers:
        ways["MONAI"] = monai_step(config, split, device)
    return _counted("training step", config, ways)


def evaluations(config: Config, device: torch.device, compiled: bool) -> Contest:
    """One evaluation of the network, as each step of sampling takes; and of EnsemDiff by MONAI's."""
    x, t, image = inputs(config, device)

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
    if "MONAI" in config.network.peers:
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
    return Contest("fingerprint", "", detail, {"estimate": lambda: estimate_mask_error(dataset, config)}, once=True)


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
    keep_freed_memory()
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
    if _has_image_features(config):
        for steps in PUBLISHED_STEPS:
            leaves = {"inference.steps": steps, "inference.ensemble": 10}
            yield procedures(config.with_leaves(leaves), device, images=2)
    for sampler, steps in itertools.product(SAMPLERS, SAMPLED_STEPS):
        leaves = {"inference.sampler": sampler, "inference.steps": steps, "inference.ensemble": 1}
        yield samplings(config.with_leaves(leaves), device, images=8)


def _has_image_features(config: Config) -> bool:
    """Whether the network computes once what depends on the image alone."""
    with torch.device("meta"):
        return hasattr(build_network(config), "image_features")


def _first_twin(network: str) -> str | None:
    return next((preset for preset in names(network) if preset.startswith("debug/")), None)


PRESETS = {  # the first debug twin of each diffusion network
    name: twin for name, network in NETWORKS.items() if "e2" in network.experiments and (twin := _first_twin(name))
}


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
    if "MONAI" in NETWORKS[name].peers:
        leaves["diffusion.variance"] = "small"  # MONAI's loop does not learn it either
    return Config().with_leaves(leaves).resolved()


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
