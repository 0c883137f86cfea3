"""The benchmarks of `diffseg bench`: what is timed, and what it is compared with."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from diffseg import data
from diffseg.bench.harness import Benchmark, keep_freed_memory
from diffseg.bench.peers import (
    WithoutImageCache,
    monai_batches,
    monai_evaluation,
    monai_training_step,
    published_form,
    sample_inputs,
)
from diffseg.config import NETWORKS, Config
from diffseg.config.presets import names
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.experiments import build_experiment, build_network
from diffseg.fingerprint.quick import estimate_mask_error
from diffseg.prediction.ensembles import predict_split
from diffseg.randomness import generator
from diffseg.training.batches import Batches
from diffseg.training.execution import (
    autocast,
    compile_for_inference,
    compile_for_training,
    inference_layout,
    move_network,
    training_layout,
)
from diffseg.training.state import OPTIMISERS, initialise_network

PARTS = ("training", "prediction", "data", "metrics", "fingerprint")
PUBLISHED_STEPS = (100, 50)  # sampling steps of the published ensembles of SegDiff and MedSegDiff
SAMPLED_STEPS = (5, 20)  # sampling steps of one member, timed with every sampler
TWIN_SIZE, METRICS_SIZE, ESTIMATE_SIZE = 64, 256, 64  # px, defaults
FLOAT32 = {"training.precision": "float32", "training.compile": False}
BF16 = {**FLOAT32, "training.precision": "bf16"}
Call = Callable[[], object]


def _first_twin(network: str) -> str | None:
    """Return the first debug twin among a network's presets; None if it has none."""
    return next((preset for preset in names(network) if preset.startswith("debug/")), None)


PRESETS = {  # the first debug twin of each diffusion network
    name: twin for name, network in NETWORKS.items() if "e2" in network.experiments and (twin := _first_twin(name))
}


def benchmarks(
    parts: Collection[str],
    networks: Sequence[tuple[str, str]],
    size: int | None,
    batches: Sequence[int],
    compiled: bool,
    device: torch.device,
) -> Iterator[Benchmark]:
    """Yield the benchmarks one by one, so that the networks of one are freed before the next is built.

    Args:
        parts: Some of PARTS.
        networks: Names and presets, all published or all debug twins.
        size: Image side in px. None stands for the size of each published preset, and TWIN_SIZE for debug twins.
        batches: Batch sizes.
        compiled: Also time the networks with torch.compile.
        device: The device to compute on.
    """
    keep_freed_memory()
    if not networks[0][1].startswith("published/"):
        size = size or TWIN_SIZE
    for name, preset in networks:
        for benchmark in _of_network(parts, partial(synthetic_config, name, preset, size), batches, compiled, device):
            yield replace(benchmark, network=f"{name} {preset}")
    if "data" in parts:
        yield batch_loading(synthetic_config("ensemdiff", "published/brats", size, batches[-1]), device)
    if "metrics" in parts:
        yield metrics(size or METRICS_SIZE, device)
    if "fingerprint" in parts:
        yield quick_fingerprint(size or ESTIMATE_SIZE)


def select_presets(networks: Collection[str], preset: str | None) -> list[tuple[str, str]]:
    """Return pairs of network and preset.

    preset: a preset's name, or a kind (`published` or `debug`) for all presets of the kind. Networks without it are left out.
    None stands for the debug twin of each network.
    """
    if preset is None:
        return [(name, PRESETS[name]) for name in networks]
    return [(name, one) for name in networks for one in names(name) if preset in (one, one.partition("/")[0])]


def synthetic_config(name: str, preset: str, size: int | None, batch: int) -> Config:
    """Return the configuration of E2 with a network's preset on synthetic images."""
    leaves: dict[str, Any] = {"network": name, "preset": preset, "experiment": "e2", "training.batch": batch}
    leaves |= {"data.layout": "synthetic", "data.fit": "resize", "data.scale": 1.0, "data.test_images": 8}
    leaves |= {"data.train_images": 4 * batch} | ({"data.size": size} if size else {})
    if "MONAI" in NETWORKS[name].peers:
        leaves["diffusion.variance"] = "small"  # MONAI does not learn the variance
    return Config().with_leaves(leaves).resolved()


def _of_network(
    parts: Collection[str],
    config_of_batch: Callable[[int], Config],
    batches: Sequence[int],
    compiled: bool,
    device: torch.device,
) -> Iterator[Benchmark]:
    """Yield the benchmarks of one network. config_of_batch maps a batch size to a configuration."""
    for batch in batches:
        if "training" in parts:
            yield training_step(config_of_batch(batch), device, compiled)
        if "prediction" in parts:
            yield network_evaluation(config_of_batch(batch), device, compiled)
    if "prediction" not in parts:
        return
    config = config_of_batch(1)
    if _caches_image_features(config):
        for steps in PUBLISHED_STEPS:
            ensemble = config.with_leaves({"inference.steps": steps, "inference.ensemble": 10})
            yield ensemble_prediction(ensemble, device, images=2)
    for sampler, steps in itertools.product(SAMPLERS, SAMPLED_STEPS):
        leaves = {"inference.sampler": sampler, "inference.steps": steps, "inference.ensemble": 1}
        yield prediction(config.with_leaves(leaves), device, images=8)


def _caches_image_features(config: Config) -> bool:
    """Return whether the network computes the features of the image once for all sampling steps."""
    with torch.device("meta"):
        return hasattr(build_network(config), "image_features")


def training_step(config: Config, device: torch.device, compiled: bool) -> Benchmark:
    """Time a training step: batch, forward and backward pass, clipping, optimiser.

    The plain transcription uses torch's default optimiser, which is not fused, as the published loops do. EnsemDiff is also
    compared with the training step of MONAI's tutorials.
    """
    split = data.load(config.data, None).train

    def build(config: Config) -> Call:
        network = move_network(initialise_network(config), device, training_layout(config, device))
        return _training_call(config, network, compile_for_training(network, config, device), split.to(device))

    ways = {way: build(config.with_leaves(leaves)) for way, leaves in _execution_modes(compiled).items()}
    network = published_form(initialise_network(config)).to(device)
    float32 = config.with_leaves(FLOAT32)
    ways["plain transcription"] = _training_call(float32, network, network, split.to(device), fused=None)
    if "MONAI" in config.network.peers:
        ways["MONAI"] = monai_training_step(config, split, device)
    return _of_batches("training step", config, ways)


def network_evaluation(config: Config, device: torch.device, compiled: bool) -> Benchmark:
    """Time one forward pass of the network, as in a sampling step. EnsemDiff is also compared with MONAI's network."""
    x, t, image = sample_inputs(config, device)

    def call(config: Config, network: nn.Module) -> Call:
        def evaluate() -> None:
            with torch.inference_mode(), autocast(config, device):
                network(x, t, image)

        return evaluate

    def build(config: Config) -> Call:
        network = move_network(initialise_network(config).eval(), device, inference_layout(config, device))
        return call(config, compile_for_inference(network, config, device))

    ways = {way: build(config.with_leaves(leaves)) for way, leaves in _execution_modes(compiled).items()}
    network = published_form(initialise_network(config)).eval().to(device)
    ways["plain transcription"] = call(config.with_leaves(FLOAT32), network)
    if "MONAI" in config.network.peers:
        ways["MONAI"] = monai_evaluation(config, device)
    return _of_batches("network evaluation", config, ways)


def prediction(config: Config, device: torch.device, images: int) -> Benchmark:
    """Time the prediction of a few images."""
    ways = {"diffseg": _prediction_call(config, initialise_network(config), _first_images(config, device, images))}
    return _of_predictions(config, ways, images)


def ensemble_prediction(config: Config, device: torch.device, images: int) -> Benchmark:
    """Time an ensemble's prediction in four forms, each faster than the one before.

    The published procedure draws one sample after the other and evaluates the whole network at every step. The others draw
    all samples in one batch; compute the features of the image once; and compute in bf16.
    """
    float32 = config.with_leaves(FLOAT32)
    one_by_one, bf16 = (config.with_leaves(leaves) for leaves in (FLOAT32 | {"inference.batch": 1}, BF16))
    network, split = initialise_network(config), _first_images(config, device, images)
    ways = {
        "published procedure": _prediction_call(one_by_one, WithoutImageCache(published_form(network)), split),
        "in one batch": _prediction_call(float32, WithoutImageCache(network), split),
        "image once": _prediction_call(float32, network, split),
        "bf16": _prediction_call(bf16, copy.deepcopy(network), split),
    }
    return _of_predictions(config, ways, images)


def batch_loading(config: Config, device: torch.device) -> Benchmark:
    """Time an augmented batch, against MONAI's dataset, transforms and DataLoader on the same arrays."""
    split = data.load(config.data, None).train
    batches, steps = Batches(split.to(device), config), iter(range(10**9))
    ways: dict[str, Call] = {"diffseg": lambda: batches(next(steps)), "MONAI": monai_batches(split, config, device)}
    return Benchmark("batch", "", f"{config.data.size} px, batch {config.training.batch}", ways, config.training.batch)


def metrics(size: int, device: torch.device) -> Benchmark:
    """Time IoU and Dice of 64 masks, one by one as in the evaluation, against MONAI's and torchmetrics'."""
    from monai.metrics import compute_dice, compute_iou
    from torchmetrics.functional.classification import binary_jaccard_index
    from torchmetrics.functional.segmentation import dice_score

    from diffseg.evaluation.metrics import overlap

    draw = torch.Generator().manual_seed(0)
    found, truth = (torch.rand(64, 1, size, size, generator=draw).to(device) > 0.5 for _ in range(2))
    ways: dict[str, Call] = {
        "diffseg": lambda: [overlap(a, b) for a, b in zip(found[:, 0], truth[:, 0], strict=True)],
        "MONAI": lambda: [
            (compute_iou(a[None], b[None]), compute_dice(a[None], b[None])) for a, b in zip(found, truth, strict=True)
        ],
        "torchmetrics": lambda: [
            (binary_jaccard_index(a, b), dice_score(a[None].long(), b[None].long(), num_classes=1))
            for a, b in zip(found, truth, strict=True)
        ],
    }
    return Benchmark("IoU and Dice", "", f"{size} px, 64 masks", ways, 64)


def quick_fingerprint(size: int) -> Benchmark:
    """Time the fingerprint of synthetic masks without training (`diffseg fingerprint --quick`)."""
    config = Config().with_leaves({"experiment": "e3", "data.size": size}).resolved()
    dataset = data.load(config.data, None)
    detail = f"{size} px, {len(dataset.train.names)} images"
    return Benchmark("fingerprint", "", detail, {"estimate": lambda: estimate_mask_error(dataset, config)}, once=True)


def _execution_modes(compiled: bool) -> dict[str, dict[str, Any]]:
    """Return the settings of each way to compute a network; the first is the reference. All use diffseg's memory layout."""
    fast = {"training.compile": True}
    modes = {"diffseg": FLOAT32, "bf16": BF16}
    return modes | ({"compiled bf16": BF16 | fast, "compiled": FLOAT32 | fast} if compiled else {})


def _of_batches(subject: str, config: Config, ways: dict[str, Call]) -> Benchmark:
    """Return a benchmark of ways to compute one batch. Their floating-point operations are counted."""
    batch = config.training.batch
    detail = f"{config.data.size} px, batch {batch}"
    precisions = {way: "bf16" for way in ways if way.endswith("bf16")}
    return Benchmark(subject, config.network.name, detail, ways, batch, count_flops=True, precisions=precisions)


def _of_predictions(config: Config, ways: dict[str, Call], images: int) -> Benchmark:
    """Return a benchmark of ways to predict the same images."""
    detail = f"{config.data.size} px, {config.inference.ensemble} members, {config.inference.steps} steps"
    return Benchmark("prediction", config.network.name, detail, ways, images)


def _first_images(config: Config, device: torch.device, images: int) -> data.Split:
    """Return the first test images."""
    return data.load(config.data, None).test.to(device).subset(torch.arange(images, device=device))


def _prediction_call(config: Config, network: nn.Module, split: data.Split) -> Call:
    """Return a call that predicts a split."""
    move_network(network.eval(), split.device, inference_layout(config, split.device))
    return lambda: list(predict_split(network, split, config))


def _training_call(
    config: Config, network: nn.Module, forward: nn.Module, split: data.Split, fused: bool | None = True
) -> Call:
    """Return a call that trains one step.

    Args:
        config: The trial.
        network: The network whose parameters are trained.
        forward: The same network as it is called: compiled or not.
        split: The training images.
        fused: torch's argument of the optimiser; None is torch's default.
    """
    objective, batches, device = build_experiment(config), Batches(split, config), split.device
    optimiser = OPTIMISERS[config.training.optimiser](network.parameters(), lr=1e-6, fused=fused)
    draw, steps = partial(generator, device, config.seed, "bench"), itertools.count()

    def step() -> None:
        images, masks = batches(next(steps))
        with autocast(config, device):
            loss = objective.loss(forward, images, masks, draw())
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step
