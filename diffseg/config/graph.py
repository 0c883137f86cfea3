"""The trials that another one builds on: the members of a deep ensemble, and the E3 trials of a fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffseg.config.diffusion import Diffusion
from diffseg.networks.protocol import NetworkSettings
from diffseg.networks.unet_settings import UNetSettings

if TYPE_CHECKING:
    from diffseg.config.trial import Config

HELD_OUT = 0.2  # share of the training masks on which a fingerprint is measured


def members(config: Config) -> list[Config]:
    """Return the trials that make up a deep ensemble; none for other trials."""
    alone = config.inference.model_copy(update={"seeds": ()})
    return [config.model_copy(update={"seed": seed, "inference": alone}) for seed in config.inference.seeds]


def fingerprint_trials(config: Config) -> list[Config]:
    """Return the E3 trials whose errors over the noise levels weigh this trial; none for trials without a fingerprint.

    They have the trial's data, coding, training and networks, but noise levels of their own, from those of clean masks to
    a log-SNR of −20. So a fingerprint is the same for all schedules, and is measured wherever any of them may end. The same
    trials measure all classes. They are measured on masks that are held out of the training ones, so that no test mask has a
    part in training.
    """
    own = config.diffusion
    if "fingerprint" not in (own.weighting, own.density):
        return []
    levels = Diffusion(
        target="x0",
        activation="tanh",
        schedule="cosine",
        input_scale=0.1,
        steps=own.steps,
        time=own.time,
        coding=own.coding,
        distance_limit=own.distance_limit,
    )
    training = config.training.model_copy(update={"steps": own.fingerprint_steps or config.training.steps})
    networks = [_sized_alike(config, name) for name in own.fingerprint_networks or (config.network.name,)]
    data = config.data.model_copy(update={"held_out": config.data.held_out or HELD_OUT})
    shared = {"experiment": "e3", "data": data, "diffusion": levels, "training": training}
    return [
        config.model_copy(update=shared | {"network": network, "seed": seed}).resolved()
        for network in networks
        for seed in own.fingerprint_seeds
    ]


def _sized_alike(config: Config, name: str) -> NetworkSettings:
    """Return the settings of the U-Net of that name with the sizes of the configuration's network."""
    if name == config.network.name:
        return config.network
    sizes = {
        f"network.{key}": value
        for key, value in config.network.model_dump().items()
        if key in UNetSettings.model_fields
    }
    return config.with_leaves({"network": name} | sizes).network
