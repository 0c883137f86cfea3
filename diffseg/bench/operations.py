"""The operations that `diffseg bench` times, each in all its ways."""

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from diffseg import data
from diffseg.bench.harness import Benchmark
from diffseg.bench.peers import (
    WithoutImageCache,
    monai_batches,
    monai_evaluation,
    monai_training_step,
    published_form,
    sample_inputs,
)
from diffseg.config import Config
from diffseg.experiments import build_experiment
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
from diffseg.training.parallel import SINGLE_PROCESS
from diffseg.training.state import OPTIMISERS, initialise_network, start
from diffseg.training.step import WARM_UP, choose_step

FLOAT32 = {"training.precision": "float32", "training.compile": False}
BF16 = {**FLOAT32, "training.precision": "bf16"}
Call = Callable[[], object]


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
    if device.type == "cuda":
        ways |= {
            "graph": _captured_call(config.with_leaves(FLOAT32), split.to(device)),
            "graph bf16": _captured_call(config.with_leaves(BF16), split.to(device)),
        }
    network = published_form(initialise_network(config)).to(device)
    float32 = config.with_leaves(FLOAT32)
    ways["plain transcription"] = _training_call(float32, network, network, split.to(device), fused=None)
    if "MONAI" in config.network.peers:
        ways["MONAI"] = monai_training_step(config, split, device)
    return _of_batches("training step", config, ways)


def _captured_call(config: Config, split: data.Split) -> Call:
    """Return a call that trains one step as trials do on GPUs: replayed as a CUDA graph, once it is warm.

    The first call warms up and captures.
    """
    state = start(config, split.device)
    batches, step = (
        Batches(split, config),
        choose_step(build_experiment(config), state, config, split.device, SINGLE_PROCESS),
    )

    def run() -> None:
        for _ in range(1 if state.step else WARM_UP + 1):
            step(*batches(state.step))
            state.step += 1

    return run


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


def large_prediction(config: Config, device: torch.device, images: int) -> Benchmark:
    """Time the prediction of ensembles of many images, against their network evaluations alone."""
    network = initialise_network(config)
    split = _first_images(config, device, images)
    inference = config.inference
    steps = inference.steps
    assert steps is not None  # set in resolved configurations
    batches = -(-images * inference.ensemble // inference.batch)
    x, t, image = sample_inputs(config, device)

    def evaluate() -> None:
        with torch.inference_mode(), autocast(config, device):
            for _ in range(batches * steps):
                network(x, t, image)

    ways = {"network alone": evaluate, "diffseg": _prediction_call(config, network, split)}
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
    """Time IoU and Dice of each of 64 masks, in one call as in the evaluation, against MONAI's and torchmetrics'."""
    from monai.metrics import compute_dice, compute_iou
    from torchmetrics.functional.classification import binary_jaccard_index
    from torchmetrics.functional.segmentation import dice_score

    from diffseg.evaluation.metrics import overlap

    draw = torch.Generator().manual_seed(0)
    found, truth = (torch.rand(64, 1, size, size, generator=draw).to(device) > 0.5 for _ in range(2))
    ways: dict[str, Call] = {
        "diffseg": lambda: overlap(found[:, 0], truth[:, 0]),
        "MONAI": lambda: (compute_iou(found, truth), compute_dice(found, truth)),
        "torchmetrics": lambda: (  # its IoU has no form for each image
            [binary_jaccard_index(a, b) for a, b in zip(found, truth, strict=True)],
            dice_score(found.long(), truth.long(), num_classes=1),
        ),
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
