"""The benchmarks of `diffseg bench`: the operations, networks and sizes that are timed."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from diffseg.bench.harness import Benchmark, keep_freed_memory
from diffseg.bench.operations import (
    batch_loading,
    ensemble_prediction,
    large_prediction,
    metrics,
    network_evaluation,
    prediction,
    quick_fingerprint,
    training_step,
)
from diffseg.config import NETWORKS, Config
from diffseg.config.presets import names
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.experiments import build_network

PARTS = ("training", "prediction", "data", "metrics", "fingerprint")
PUBLISHED_STEPS = (100, 50)  # sampling steps of the published ensembles of SegDiff and MedSegDiff
SAMPLED_STEPS = (5, 20)  # sampling steps of one member, timed with every sampler
LARGE = {"data.test_images": 64, "inference.ensemble": 10, "inference.steps": 10, "inference.batch": 64}
TWIN_SIZE, METRICS_SIZE, ESTIMATE_SIZE = 64, 256, 64  # px, defaults


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
    quick: bool = False,
) -> Iterator[Benchmark]:
    """Yield the benchmarks one by one, so that the networks of one are freed before the next is built.

    Args:
        parts: Some of PARTS.
        networks: Names and presets, all published or all debug twins.
        size: Image side in px. None stands for the size of each published preset, and TWIN_SIZE for debug twins.
        batches: Batch sizes.
        compiled: Also time the networks with torch.compile.
        device: The device to compute on.
        quick: Leave out the published ensembles, which take hundreds of network evaluations, and most samplers.
    """
    keep_freed_memory()
    if not networks[0][1].startswith("published/"):
        size = size or TWIN_SIZE
    for name, preset in networks:
        for benchmark in _of_network(
            parts, partial(synthetic_config, name, preset, size), batches, compiled, device, quick
        ):
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
    quick: bool,
) -> Iterator[Benchmark]:
    """Yield the benchmarks of one network. config_of_batch maps a batch size to a configuration."""
    for batch in batches:
        if "training" in parts:
            yield training_step(config_of_batch(batch), device, compiled)
        if "prediction" in parts:
            yield network_evaluation(config_of_batch(batch), device, compiled)
    if "prediction" not in parts:
        return
    if device.type == "cuda":  # CPUs would take minutes
        large = config_of_batch(LARGE["inference.batch"]).with_leaves(LARGE)
        yield large_prediction(large, device, LARGE["data.test_images"])
    config = config_of_batch(1)
    if not quick and _caches_image_features(config):
        for steps in PUBLISHED_STEPS:
            ensemble = config.with_leaves({"inference.steps": steps, "inference.ensemble": 10})
            yield ensemble_prediction(ensemble, device, images=2)
    for sampler, steps in itertools.product(["ancestral"] if quick else SAMPLERS, SAMPLED_STEPS):
        leaves = {"inference.sampler": sampler, "inference.steps": steps, "inference.ensemble": 1}
        yield prediction(config.with_leaves(leaves), device, images=8)


def _caches_image_features(config: Config) -> bool:
    """Return whether the network computes the features of the image once for all sampling steps."""
    with torch.device("meta"):
        return hasattr(build_network(config), "image_features")
