"""One trial as data: a typed, frozen, hashable configuration.

The hash of a configuration's canonical JSON is the trial's identity (`Config.digest`). It does not include where data lie
on disk: roots are given at run time, so that a study may move between machines.
"""

import hashlib
import json
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from diffseg.config import graph
from diffseg.config.data import Data
from diffseg.config.diffusion import Diffusion
from diffseg.config.experiments import Experiment, covers
from diffseg.config.head import Head
from diffseg.config.inference import LEAST_KL_STEPS, MEASURED, Inference
from diffseg.config.leaves import flat
from diffseg.config.network import Network
from diffseg.config.presets import expanded
from diffseg.config.resolution import resolve, usual_steps
from diffseg.config.sentences import explain, shown, unknown
from diffseg.config.training import Training
from diffseg.errors import ConfigError
from diffseg.networks.ensemdiff.settings import EnsemDiff
from diffseg.networks.registry import NETWORKS
from diffseg.section import Section, Seed

LARGEST_NUMBER = 2**53  # larger whole numbers do not fit into the ledger
SCHEMA_VERSION = 1  # raise it when the meaning of a key changes: old trials then count as other trials


# fmt: off
class Config(Section):
    """One trial: what is trained on which data, how, and how it predicts."""

    experiment: Experiment = Field("e2",
        description="e1: feed-forward segmentation; e2: diffusion segmentation; e3: masks without the image; e4: images.")
    seed: Seed = Field(0, description="Seed of the weights, batches, noise and samples.")
    data: Data = Field(Data(), description="The data set.")
    network: Network = Field(EnsemDiff(), description="The network; its other settings depend on network.name.")
    diffusion: Diffusion = Field(Diffusion(), description="The diffusion process and its objective.")
    head: Head = Field(Head(), description="What E1's network says of a mask.")
    training: Training = Field(Training(), description="The training.")
    inference: Inference = Field(Inference(), description="Prediction, and what is measured.")
    # fmt: on

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        seeds = self.inference.seeds
        if (seeds and len(set(seeds)) != len(seeds)) or len(seeds) == 1:
            raise ValueError(f"inference.seeds is {list(seeds)}, but a deep ensemble has two or more different seeds")
        return self

    @model_validator(mode="after")
    def _check_experiment(self) -> Self:
        if self.experiment not in self.network.experiments:
            raise ValueError(
                f"network {self.network.name} has no {self.experiment}: it has only {', '.join(self.network.experiments)}"
            )
        return self

    @model_validator(mode="after")
    def _check_coding(self) -> Self:
        if self.diffusion.coding == "bits" and self.data.regions and len(self.data.class_names) > 1:
            raise ValueError(
                "diffusion.coding=bits codes one class a pixel, but data.regions lets classes overlap: take coding pm1, 01 or sdf"
            )
        return self

    @model_validator(mode="after")
    def _check_average(self) -> Self:
        ignored = covers(self.network.ignored, "training.ema_copies")
        if self.inference.ema_length and not self.training.ema_copies and not ignored:
            raise ValueError(
                f"inference.ema_length is {self.inference.ema_length:g}, but training.ema_copies is 0: set it, such as 32"
            )
        return self

    @model_validator(mode="after")
    def _check_risk(self) -> Self:
        if self.inference.risk.metric == "none":
            return self
        if not self.data.calibration:
            raise ValueError(
                "inference.risk chooses the threshold on images that are not trained on, but data.calibration is 0: set it, such "
                "as 0.2"
            )
        if self.data.test_crops:
            raise ValueError(
                "inference.risk is the loss of whole images, but data.test_crops measures one crop of each: leave one out"
            )
        if len(self.data.class_names) > 1 and not self.data.regions:
            raise ValueError(
                "inference.risk chooses a threshold, but of several exclusive classes a pixel gets the most probable one: leave it "
                "out, or set data.regions=true"
            )
        return self

    @model_validator(mode="after")
    def _check_dropout(self) -> Self:
        used = self.experiment == "e1" and self.inference.dropout and not covers(self.network.ignored, "inference.dropout")
        if used and not getattr(self.network, "dropout", 0):
            known = "dropout" in type(self.network).model_fields
            remedy = "set network.dropout, such as 0.1" if known else "leave it out, or take another network"
            raise ValueError(f"inference.dropout is true, but {self.network.name} drops no units: {remedy}")
        return self

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        steps = self.inference.steps or usual_steps(self.diffusion)
        if self.experiment == "e2" and self.inference.grid == "least-kl" and steps > LEAST_KL_STEPS:
            raise ValueError(
                f"inference.grid=least-kl has at most {LEAST_KL_STEPS} steps, but inference.steps is {steps}: take grid entropic"
            )
        return self

    @model_validator(mode="after")
    def _check_fingerprint_class(self) -> Self:
        name, names = self.diffusion.fingerprint_class, self.data.class_names
        if name is not None and name not in names:
            allowed = f"allowed are {', '.join(names)}, and null for their mean" if names else "data.classes names none"
            raise ValueError(f"diffusion.fingerprint_class is {shown(name)}, which is no class of the masks: {allowed}")
        return self

    # Its identity

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the trial: the hash of its canonical JSON and the schema version."""
        return hashlib.sha256(f"{SCHEMA_VERSION}:{self.canonical()}".encode()).hexdigest()[:12]

    @property
    def configuration(self) -> str:
        """A digest of everything but the seed: trials that share it repeat one configuration."""
        return self.model_copy(update={"seed": 0}).digest

    @property
    def trained(self) -> str:
        """A digest of what training leaves behind; trials that share it differ only in how they predict."""
        predicts_while_training = self.training.evaluations
        if self.inference.seeds or predicts_while_training or not self.network.reuses_training:
            return self.digest
        measured = MEASURED if self.training.snapshots else ()
        inference = Inference(**{name: getattr(self.inference, name) for name in measured})
        return self.model_copy(update={"inference": inference}).digest

    def canonical(self) -> str:
        """Return the configuration as JSON with sorted keys and no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def resolved(self) -> "Config":
        """Return the configuration with what its experiment fixes set, and what it does not use at its default."""
        return resolve(self)

    def on_test_images(self) -> "Config":
        """Return the configuration that trains on all training images, and is scored on the test images."""
        return self.with_leaves({"data.held_out": 0.0, "data.held_out_least": 0, "data.fold": 0}).resolved()

    # What it takes

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training, at most."""
        return 1 if self.inference.seeds else self.network.training_steps(self.training)

    def members(self) -> list["Config"]:
        """Return the trials that make up a deep ensemble; none for other trials."""
        return graph.members(self)

    def fingerprint_trials(self) -> list["Config"]:
        """Return the E3 trials whose errors over the noise levels weigh this trial; none without a fingerprint."""
        return graph.fingerprint_trials(self)

    def needs(self) -> list["Config"]:
        """Return the trials that this one builds on: the members of a deep ensemble, or the E3 trials of a fingerprint."""
        return self.members() + self.fingerprint_trials()

    # Its settings

    def leaves(self) -> dict[str, Any]:
        """Return every setting by its dotted path, such as `training.learning_rate`."""
        dumped = self.model_dump(mode="json")
        dumped["data"]["classes"] = dict(dumped["data"]["classes"])  # as users write it
        return flat(dumped)

    def with_leaves(self, leaves: dict[str, Any]) -> "Config":
        """Return a copy with the given dotted paths set. `network` is short for `network.name`; `preset` stands for settings.

        Another network starts from its defaults. Raises ConfigError that names the key, the value and what is allowed.
        """
        leaves = {"network.name" if path == "network" else path: value for path, value in leaves.items()}
        tree = self.model_dump(mode="json")
        name = leaves.get("network.name", self.network.name)
        if not isinstance(name, str):
            raise ConfigError(f"network.name: got {shown(name)}; allowed are {', '.join(NETWORKS)}")
        if name != self.network.name and name in NETWORKS:  # another network has other settings
            tree["network"] = NETWORKS[name]().model_dump(mode="json")
        for path, value in expanded(leaves, name).items():
            _set(tree, path, value)
        return load(tree)


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a leaf of nested tables. Raises ConfigError for an unknown path, or a number that is too large."""
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise ConfigError(f"{path}: got {shown(value)}; whole numbers are at most {LARGEST_NUMBER}")
    *sections, key = path.split(".")
    branch: Any = tree
    for section in sections:
        branch = branch.get(section) if isinstance(branch, dict) else None
    if not isinstance(branch, dict) or key not in branch or isinstance(branch[key], dict):
        raise ConfigError(unknown(path, flat(tree)))
    branch[key] = value


def load(tree: dict[str, Any] | str) -> Config:
    """Return the configuration of nested dictionaries or JSON. Raises ConfigError in one sentence."""
    try:
        return Config.model_validate_json(tree if isinstance(tree, str) else json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(explain(e, _known) for e in error.errors())) from None
    except (TypeError, ValueError, RecursionError):  # of json.dumps
        raise ConfigError("the configuration holds a value that is too long or nested too deeply") from None


def _known(network: str) -> dict[str, Any]:
    """Return the settings that a configuration with that network has."""
    return Config(experiment="e1", network=NETWORKS[network]()).leaves()
