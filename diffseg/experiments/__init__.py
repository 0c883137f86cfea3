"""The four experiments: what each noises, conditions on, predicts and minimises (Öttl et al., 2024, Sec. 3).

| | input | conditioned on | predicts | loss |
|---|---|---|---|---|
| e1 feed-forward segmentation | noise in place of x_t | image | mask logits | Dice + cross-entropy, or a head's |
| e2 diffusion segmentation | noisy mask x_t | image | ε, x0, v or others | mean squared error, or others on x0 |
| e3 mask prediction | noisy mask x_t | nothing | x0 (Eq. 2) | mean squared error |
| e4 image generation | noisy image x_t | nothing | ε (Eq. 1) | mean squared error |

A network's extra output, such as MedSegDiff's mask from the image alone, adds its own loss in E1 and E2. What a loss learns,
its errors over the noise levels, its uncertainty or its density of timesteps, is part of the network, and so of its checkpoints.
"""

from torch import nn

from diffseg.config import Config
from diffseg.diffusion.densities import AdaptiveDensity
from diffseg.diffusion.level_errors import LevelErrors, OnlineCurve
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.errors import ConfigError
from diffseg.experiments.denoising import Denoising
from diffseg.experiments.feed_forward import FeedForward
from diffseg.experiments.heads import make_head
from diffseg.experiments.protocol import WHOLE_BATCH, Experiment
from diffseg.labels.labels import Labels
from diffseg.networks.protocol import Dimensions

__all__ = ["WHOLE_BATCH", "Denoising", "Experiment", "FeedForward", "build_experiment", "build_network"]


def build_network(config: Config) -> nn.Module:
    """Build the configured network with the channels that its experiment needs."""
    labels = Labels.of(config)
    channels = config.data.channels if config.experiment == "e4" else labels.channels
    image_channels = config.data.channels if config.experiment in ("e1", "e2") else 0
    inputs = 2 if config.diffusion.self_conditioning else 1
    outputs = 2 if config.diffusion.variance == "learned" else 1
    head = make_head(config) if config.experiment == "e1" else None
    out_channels = head.outputs if head else outputs * channels
    dimensions = Dimensions(inputs * channels, image_channels, out_channels, config.data.size, labels.classes.channels)
    network = config.network.implementation().build(dimensions)
    if latent := head and head.build():
        network.latent = latent
    if config.diffusion.weighting == "learned":
        network.uncertainty = Uncertainty()
    if config.diffusion.density == "adaptive":
        network.density = AdaptiveDensity()
    if config.experiment == "e2":
        online = "online" in (config.diffusion.weighting, config.diffusion.density)
        network.level_errors = OnlineCurve() if online else LevelErrors()
    return network


def build_experiment(config: Config) -> FeedForward | Denoising:
    """Return the experiment of a configuration.

    Raises:
        ConfigError: The configuration needs a fingerprint that is not measured yet.
    """
    if config.fingerprint_trials():
        raise ConfigError(
            "weighting or density fingerprint has no curve before its E3 trials are trained: run the trial by "
            "diffseg.trial.run or `diffseg run`, which train them first"
        )
    return FeedForward(config) if config.experiment == "e1" else Denoising(config)
