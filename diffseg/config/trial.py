"""One trial as data: a typed, frozen, hashable configuration.

The canonical JSON of a `Config` is hashed, and the digest is the trial's identity (`Config.digest`). Where data lie on
disk is not part of it: roots are given at run time, so that a study may move between machines.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from diffseg.config.data import Augment, Data
from diffseg.config.diffusion import Diffusion
from diffseg.config.inference import MEASURED, X0_STEPS, Inference
from diffseg.config.leaves import flat
from diffseg.config.presets import expanded
from diffseg.config.sentences import shown, unknown
from diffseg.config.training import Training
from diffseg.errors import ConfigError
from diffseg.networks.settings import (
    FEED_FORWARD,
    NETWORKS,
    EnsemDiff,
    Network,
    UNet,
)
from diffseg.section import Section, Seed

LARGEST_NUMBER = 2**53  # whole numbers beyond it do not fit into the ledger
SCHEMA_VERSION = 1  # raise it when the meaning of a key changes: old trials then count as other trials

Experiment = Literal["e1", "e2", "e3", "e4"]


FINGERPRINT_HELD_OUT = 0.2  # share of the training masks on which a fingerprint is measured


# fmt: off
class Config(Section):
    """One trial: what is trained on which data, how, and how it predicts."""

    experiment: Experiment = Field("e2",
        description="e1: feed-forward segmentation; e2: diffusion segmentation; e3: masks without the image; e4: images.")
    seed: Seed = Field(0, description="Seed of the weights, batches, noise and samples.")
    data: Data = Field(Data(), description="The data set.")
    network: Network = Field(EnsemDiff(), description="The network; its other settings depend on network.name.")
    diffusion: Diffusion = Field(Diffusion(), description="The diffusion process and its objective.")
    training: Training = Field(Training(), description="The training.")
    inference: Inference = Field(Inference(), description="Prediction, and what is measured.")
    # fmt: on

    @model_validator(mode="after")
    def _ensemble_of_several(self):
        seeds = self.inference.seeds
        if (seeds and len(set(seeds)) != len(seeds)) or len(seeds) == 1:
            raise ValueError(f"inference.seeds is {list(seeds)}, but a deep ensemble has two or more different seeds")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training, at most."""
        if self.inference.seeds:
            return 1
        if self.network.name == "nnunet":
            return self.network.epochs * self.network.iterations
        return self.training.steps * (2 if self.training.validation else 1)

    def members(self) -> list["Config"]:
        """The trials whose networks make up a deep ensemble; none for other trials."""
        alone = self.inference.model_copy(update={"seeds": ()})
        return [self.model_copy(update={"seed": seed, "inference": alone}) for seed in self.inference.seeds]

    def fingerprint_trials(self) -> list["Config"]:
        """The E3 trials whose errors over the noise levels weigh this trial; none for trials without a fingerprint.

        They have the trial's data, coding, training and networks, but noise levels of their own, from those of clean masks to
        a log-SNR of −20: so a fingerprint is the same for all schedules, and is measured where any of them may end. It is
        measured on masks that are held out of the training ones, so that no test mask has a part in training.
        """
        if "fingerprint" not in (self.diffusion.weighting, self.diffusion.density):
            return []
        own = self.diffusion
        told = {"steps": own.steps, "time": own.time, "coding": own.coding}
        levels = Diffusion(target="x0", activation="tanh", schedule="cosine", input_scale=0.1, **told)
        training = self.training.model_copy(update={"steps": own.fingerprint_steps or self.training.steps})
        networks = [self._network(name) for name in own.fingerprint_networks or (self.network.name,)]
        data = self.data.model_copy(update={"held_out": self.data.held_out or FINGERPRINT_HELD_OUT})
        alike = {"experiment": "e3", "data": data, "diffusion": levels, "training": training}
        return [
            self.model_copy(update={**alike, "network": network, "seed": seed}).resolved()
            for network in networks
            for seed in own.fingerprint_seeds
        ]

    def _network(self, name: str) -> Network:
        """A U-Net of that name and the size of this configuration's."""
        if name == self.network.name:
            return self.network
        sizes = {
            f"network.{key}": value for key, value in self.network.model_dump().items() if key in UNet.model_fields
        }
        return self.with_leaves({"network": name} | sizes).network

    def needs(self) -> list["Config"]:
        """The trials that this one builds on: the members of a deep ensemble, or the E3 trials of a fingerprint."""
        return self.members() + self.fingerprint_trials()

    @model_validator(mode="after")
    def _has_that_experiment(self):
        if self.network.name in FEED_FORWARD and self.experiment != "e1":
            raise ValueError(
                f"network {self.network.name} has no {self.experiment}, since it takes no noisy mask: only e1"
            )
        return self

    def resolved(self) -> "Config":
        """The configuration with what its experiment fixes set, and what it does not use at its default.

        So two configurations that differ only in what does not matter to their experiment are one trial.
        """
        changes = {"diffusion": self._resolved_diffusion(), "inference": self._resolved_inference()}
        unused = {"e1": {"snapshots": ()}, "e2": {"validation": 0.0}}
        unused = unused.get(self.experiment, {"validation": 0.0, "evaluations": ()})
        changes["training"] = self.training.model_copy(update=unused)
        if self.network.name == "nnunet":
            changes |= {"training": Training(), "data": self.data.model_copy(update={"augment": Augment()})}
        if seeds := changes["inference"].seeds:
            changes["seed"] = seeds[0]
        return self.model_copy(update=changes)

    def _resolved_diffusion(self) -> Diffusion:
        if self.network.name in FEED_FORWARD:
            return Diffusion()
        if self.experiment == "e1":
            return Diffusion(steps=self.diffusion.steps, time=self.diffusion.time)
        leaves = self.diffusion.model_dump()
        leaves["fingerprint_steps"] = self.diffusion.fingerprint_steps or self.training.steps
        if self.diffusion.fingerprint_networks == (self.network.name,):
            leaves["fingerprint_networks"] = ()
        if self.experiment in ("e3", "e4"):  # the paper's measurements
            leaves |= {"loss": "mse", "weighting": "target", "decoupled": False, "density": "uniform"}
            leaves |= {"variance": "small", "self_conditioning": False}
            leaves |= {"target": "x0"} if self.experiment == "e3" else {"target": "epsilon", "coding": "pm1"}
        return Diffusion(**leaves).resolved()

    def _resolved_inference(self) -> Inference:
        leaves, unused = self.inference.model_dump(), set()
        if self.experiment in ("e3", "e4"):
            unused = set(leaves) - MEASURED
        elif self.experiment == "e1":
            unused = {"sampler", "eta", "steps", "settled", "clip", "timesteps", "timestep_images"}
        if self.network.name == "nnunet":
            unused = set(leaves) - {"threshold", "examples", "seeds"}
        if self.experiment == "e2":
            unused = {"seeds"} if self.inference.sampler == "ddim" else {"seeds", "eta"}
            chain = self.diffusion.steps
            leaves["steps"] = leaves["steps"] or (min(X0_STEPS, chain) if self.diffusion.target == "x0" else chain)
        if not self.training.evaluations:
            unused = {*unused, "evaluation_images"}
        leaves = {key: value for key, value in leaves.items() if key not in unused}
        if self.network.name in FEED_FORWARD and self.inference.augment == "none":
            leaves["ensemble"] = 1  # all members would be the same
        return Inference(**leaves)

    @property
    def trained(self) -> str:
        """A digest of what training leaves behind: trials that share it differ in how they predict, and need but one training."""
        predicts = self.training.evaluations  # while it trains
        if self.network.name == "nnunet" or self.inference.seeds or predicts:
            return self.digest
        measured = MEASURED if self.training.snapshots else ()
        inference = Inference(**{name: getattr(self.inference, name) for name in measured})
        return self.model_copy(update={"inference": inference}).digest

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the trial: the hash of the canonical JSON and its schema version."""
        return hashlib.sha256(f"{SCHEMA_VERSION}:{self.canonical()}".encode()).hexdigest()[:12]

    def canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def leaves(self) -> dict[str, Any]:
        """Every setting by its dotted path, such as `training.learning_rate`."""
        return flat(self.model_dump(mode="json"))

    def with_leaves(self, leaves: dict[str, Any]) -> "Config":
        """A copy with the given dotted paths set; `network` is short for `network.name`, `preset` stands for settings.

        Another network starts from its defaults. Raises ConfigError that names the key, the value and what is allowed.
        """
        leaves = {"network.name" if path == "network" else path: value for path, value in leaves.items()}
        tree = self.model_dump(mode="json")
        name = leaves.get("network.name", self.network.name)
        if not isinstance(name, str):
            raise ConfigError(f"network.name: got {shown(name)}; allowed are {', '.join(NETWORKS)}")
        leaves = expanded(leaves, name)
        if name != self.network.name and name in NETWORKS:  # another network has other settings
            tree["network"] = NETWORKS[name]().model_dump(mode="json")
        for path, value in leaves.items():
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise ConfigError(f"{path}: got {shown(value)}; whole numbers are at most {LARGEST_NUMBER}")
            *sections, key = path.split(".")
            branch = tree
            for section in sections:
                branch = branch.get(section) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or key not in branch or isinstance(branch[key], dict):
                raise ConfigError(unknown(path, flat(tree)))
            branch[key] = value
        return load(tree)


def load(tree: dict | str) -> Config:
    """A Config from nested dictionaries or JSON. Raises ConfigError in one sentence."""
    try:
        return Config.model_validate_json(tree if isinstance(tree, str) else json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e) for e in error.errors())) from None
    except (TypeError, ValueError, RecursionError):  # of json.dumps
        raise ConfigError("the configuration holds a value that is too long or nested too deeply") from None


def _sentence(error: dict) -> str:
    section, *parts = error["loc"] or ("",)
    tag = parts.pop(0) if section == "network" and parts else "ensemdiff"  # pydantic names the network, too
    path = ".".join(map(str, (section, *parts)))
    if error["type"] == "extra_forbidden":
        return unknown(path, Config(network=NETWORKS[tag]()).leaves())
    if error["type"] == "union_tag_invalid":
        return f"network.name: got {json.dumps(error['ctx']['tag'])}; allowed are {', '.join(NETWORKS)}"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    if isinstance(error["input"], dict):  # several settings of a section do not go together
        return f"{path}: {message}"
    return f"{path}: got {json.dumps(error['input'], default=str)[:80]}; {message[0].lower()}{message[1:]}"
