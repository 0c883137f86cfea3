"""Errors of the recovered mask over the noise levels."""

from collections.abc import Callable

import torch
from torch import nn

from diffseg.config import Config
from diffseg.data.partition import interleave_groups
from diffseg.data.splits import Split
from diffseg.diffusion.effective import effective_weight
from diffseg.experiments import Denoising, task
from diffseg.randomness import generator
from diffseg.training.batches import one_rater, random_corners
from diffseg.training.execution import autocast

ERRORS = ("mask_error", "dice_error", "cross_entropy", "loss")  # over the noise levels


@torch.inference_mode()
def errors_over_t(
    network: nn.Module, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> list[dict]:
    """Errors at `inference.timesteps` equally spaced noise levels: rows of t, log_snr, the errors of ERRORS, weight.

    Means over `inference.timestep_images` pairs of an image (or a crop of it) and a noise (E2, E3, E4); the split's images
    come in turn, first one of each patient, again if they are fewer. The pairs are the same at all levels, so that the
    curve is smooth. weight is the effective weight of the noise level in training.
    """
    experiment = task(config)
    assert isinstance(experiment, Denoising)
    count, device = config.inference.timestep_images, split.device
    which = interleave_groups(split)[torch.arange(count, device=device) % len(split.names)]
    places = random_corners(split, which, config.data.size, generator(device, config.seed, "windows"))
    images, masks = split.cut_windows(which, places, config.data.size)
    masks = one_rater(masks, generator(device, config.seed, "raters"))
    images, masks = split.prepare_inputs(images, which), masks.float()
    grid = (
        torch.arange(1, config.inference.timesteps + 1, dtype=torch.float64, device=device) / config.inference.timesteps
    )
    sums = torch.zeros(len(grid), len(ERRORS), dtype=torch.float64, device=device)
    for k, t in enumerate(grid):
        draw = generator(device, config.seed, "timesteps")
        for first in range(0, count, config.inference.batch):
            on_batch()
            part = slice(first, first + config.inference.batch)
            times = t.expand(len(images[part]))
            with autocast(config, device):
                found = experiment.errors(network, images[part], masks[part], times, draw)
            sums[k] += torch.stack([found[name].double() for name in ERRORS]).sum(1)
    levels, weights = effective_weight(grid, config.diffusion, getattr(network, "uncertainty", None))
    columns = torch.stack([grid, levels, *(sums / count).unbind(1), weights], dim=1)
    return [dict(zip(("t", "log_snr", *ERRORS, "weight"), row, strict=True)) for row in columns.tolist()]
