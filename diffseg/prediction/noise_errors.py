"""Errors of the recovered mask over the noise levels."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from diffseg.config import Config
from diffseg.data.partition import interleave_groups
from diffseg.data.splits import Split
from diffseg.diffusion.effective import effective_weight
from diffseg.experiments import Denoising, build_experiment
from diffseg.labels.labels import Labels
from diffseg.prediction.capture import CapturedCalls
from diffseg.randomness import generator
from diffseg.rows import Row
from diffseg.training.batches import draw_corners, draw_rater
from diffseg.training.execution import autocast

Measure = Callable[..., tuple[torch.Tensor, ...]]  # of t, images, masks and noise
ERRORS = ("mask_error", "dice_error", "cross_entropy", "loss")  # columns of the rows


@torch.inference_mode()
def measure_noise_errors(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> list[Row]:
    """Measure the errors of a denoising network (E2, E3, E4) at `inference.timesteps` equally spaced noise levels.

    Errors are means over `inference.timestep_images` pairs of an image, or a crop of it, and a noise. The images of the
    split are taken in turn, first one of each patient, and repeated if they are fewer. All levels share the same pairs, so
    that the curve is smooth.

    Args:
        network: The trained network.
        split: The images.
        config: The trial's configuration.
        on_batch: Called before each batch; it may raise to stop.

    Returns:
        A row for each noise level and row of `Classes.rows`: t, log_snr, class, ERRORS, and weight, the effective weight of
        the level in training.
    """
    device = split.device
    images, masks = _draw_pairs(split, config)
    levels = config.inference.timesteps
    experiment = build_experiment(config)
    assert isinstance(experiment, Denoising)
    parts = _cut_batches(images, masks, experiment, generator(device, config.seed, "timesteps"))
    measure: Measure = partial(_sum_errors, network, experiment)
    measure = CapturedCalls(measure, device) if device.type == "cuda" else measure
    grid = torch.arange(1, levels + 1, dtype=torch.float64, device=device) / levels
    errors = torch.stack([_measure_at(t, parts, measure, on_batch) for t in grid]) / len(images)
    learned = getattr(network, "uncertainty", None), experiment.online_curve(network)
    log_snr, weights = effective_weight(grid, config.diffusion, *learned)
    rows: list[Row] = []
    for number, name in enumerate(Labels.of(config).classes.rows):
        columns = torch.stack([grid, log_snr, *errors[..., number].unbind(1), weights], dim=1)
        found = [dict(zip(("t", "log_snr", *ERRORS, "weight"), row, strict=True)) for row in columns.tolist()]
        rows += [row | {"class": name} for row in found]
    return rows


def _draw_pairs(split: Split, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images [N, C, S, S], stored masks [N, 1, S, S]) that are measured, with one rater's mask each."""
    count, device = config.inference.timestep_images, split.device
    which = interleave_groups(split)[torch.arange(count, device=device) % len(split.names)]
    corners = draw_corners(split, which, config.data.size, generator(device, config.seed, "windows"))
    images, masks = split.cut_windows(which, corners, config.data.size)
    masks = draw_rater(masks, generator(device, config.seed, "raters"))
    return split.prepare_inputs(images, which), masks.float()


def _cut_batches(
    images: torch.Tensor, masks: torch.Tensor, experiment: Denoising, draw: torch.Generator
) -> list[tuple[torch.Tensor, ...]]:
    """Return batches of images, stored masks and noise. All levels share them."""
    size = experiment.config.inference.batch
    return [
        (*part, experiment.draw_noise(*part, draw))
        for part in zip(torch.split(images, size), torch.split(masks, size), strict=True)
    ]


def _measure_at(
    t: torch.Tensor, parts: list[tuple[torch.Tensor, ...]], measure: Measure, on_batch: Callable[[], None]
) -> torch.Tensor:
    """Return the sums of the errors at time t [], in the order of ERRORS and of `Classes.rows`: [errors, rows]."""
    sums: torch.Tensor | None = None
    for part in parts:
        on_batch()
        (found,) = measure(t, *part)
        sums = found.clone() if sums is None else sums + found  # the next call may overwrite what was found
    assert sums is not None  # there is an image
    return sums


def _sum_errors(
    network: nn.Module,
    experiment: Denoising,
    t: torch.Tensor,
    images: torch.Tensor,
    masks: torch.Tensor,
    noise: torch.Tensor,
) -> tuple[torch.Tensor]:
    """Return the sums of the errors of a batch, float64 [errors, rows]."""
    with autocast(experiment.config, images.device):
        found = experiment.measure_errors(network, images, masks, t.expand(len(images)), noise)
    return (torch.stack([found[name].double() for name in ERRORS]).sum(1),)
