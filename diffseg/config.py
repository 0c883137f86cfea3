"""One trial as data: a typed, frozen, hashable configuration.

The canonical JSON of a `Config` is hashed, and the digest is the trial's identity (`Config.digest`). Where data lie on
disk is not part of it: roots are given at run time, so that a study may move between machines.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffseg.errors import ConfigError

SCHEMA_VERSION = 1  # raise it when the meaning of a key changes: old trials then count as other trials

Experiment = Literal["e1", "e2", "e3", "e4"]
LAYOUTS = ("isic16", "monuseg", "folder", "synthetic")

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# fmt: off
class Data(Section):
    name: str = Field("synthetic-large", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # the root is given as `--data NAME=ROOT`
    layout: Literal[LAYOUTS] = "synthetic"
    kind: Literal["large", "many", "clusters"] = "large"  # of object, for the synthetic layout only
    size: Annotated[int, Field(ge=8)] = 64                # side of the square that the network sees, px
    fit: Literal["resize", "crop"] = "resize"             # whole image squashed to size × size, or random crops of it
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0      # with fit="crop": images are resized by this factor first
    train_images: PositiveInt | None = None               # at most so many (synthetic: exactly so many; 200 if None)
    test_images: PositiveInt | None = None                # at most so many (synthetic: exactly so many; 40 if None)
    augment: Literal["none", "flips"] = "none"            # flips and quarter turns


class Network(Section):
    name: Literal["ensemdiff"] = "ensemdiff"
    width: PositiveInt = 128                                    # channels of the first level, a multiple of 32
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 1, 2, 2, 4, 4)  # of width, per level
    blocks: PositiveInt = 2                                     # residual blocks per encoder level
    attention: tuple[PositiveInt, ...] = (16,)                  # downsampling factors that have self-attention
    heads: PositiveInt = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _divisible(self):
        if self.width % 32:
            raise ValueError(f"width is {self.width}, but group normalisation needs a multiple of 32")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width {self.width}")
        return self


class Diffusion(Section):
    schedule: Literal["linear", "cosine"] = "linear"
    steps: PositiveInt = 1000                             # T of the published discrete chain; the network sees t·T − 1
    target: Literal["epsilon", "x0"] = "epsilon"
    activation: Literal["identity", "tanh"] = "identity"  # of an x0 output; tanh is mapped onto the coding's range
    coding: Literal["pm1", "01"] = "pm1"                  # mask values: −1 and 1, or 0 and 1
    density: Literal["uniform"] = "uniform"               # of training timesteps, stratified over the batch

    @model_validator(mode="after")
    def _consistent(self):
        if self.schedule == "linear" and not 25 <= self.steps <= 10_000:
            raise ValueError(f"steps is {self.steps}, but the linear schedule (β up to 20/steps) is defined for 25 to 10000")
        return self


class Training(Section):
    steps: PositiveInt = 60_000
    batch: PositiveInt = 10
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0               # steps of linear rise of the learning rate
    decay: Literal["constant", "cosine"] = "constant"     # of the learning rate over the steps after the warm-up
    clip: Annotated[float, Field(gt=0)] | None = None     # largest norm of the gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999     # decay per step, warmed up as (1 + n)/(10 + n); 0: no EMA
    precision: Literal["float32", "bf16"] = "float32"     # bf16: autocast, on CUDA devices
    snapshots: tuple[Fraction, ...] = (0.75, 1.0)         # shares of the steps at which errors over t are measured
    log_every: PositiveInt = 50                           # steps between points of the learning curve
    checkpoint_every: PositiveInt = 1000                  # steps between checkpoints


class Inference(Section):
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    steps: PositiveInt = 1000                             # network evaluations a sample (E1 needs one)
    variance: Literal["small", "large"] = "small"         # of the ancestral step
    ensemble: PositiveInt = 5                             # predictions an image
    merge: Literal["mean", "vote"] = "mean"               # of soft masks, or of masks cut at 0.5
    threshold: Fraction = 0.5                             # on the merged probability
    batch: PositiveInt = 64                               # tiles × members in one pass
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5    # of neighbouring tiles, with data.fit="crop"
    timesteps: Annotated[int, Field(ge=2)] = 50           # noise levels at which errors are measured
    timestep_images: PositiveInt = 64                     # test images (or crops) they are averaged over
    examples: Annotated[int, Field(ge=0)] = 4             # test images whose maps are kept for the report


# fmt: on
class Config(Section):
    experiment: Experiment = "e2"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    inference: Inference = Inference()

    def resolved(self) -> "Config":
        """The configuration with what its experiment fixes set, and what it does not use at its default.

        So two configurations that differ only in what does not matter to their experiment are one trial.
        """
        unused = {"sampler", "steps", "variance"} if self.experiment == "e1" else set()
        if self.experiment in ("e3", "e4"):
            unused = set(Inference.model_fields) - {"batch", "timesteps", "timestep_images"}
        inference = {key: value for key, value in self.inference.model_dump().items() if key not in unused}
        diffusion = {
            "e1": {"steps": self.diffusion.steps},
            "e3": self.diffusion.model_dump() | {"target": "x0"},
            "e4": self.diffusion.model_dump() | {"target": "epsilon", "coding": "pm1"},
        }.get(self.experiment, self.diffusion.model_dump())
        if diffusion.get("target") != "x0":
            diffusion.pop("activation", None)
        return self.model_copy(update={"inference": Inference(**inference), "diffusion": Diffusion(**diffusion)})

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the trial: the hash of the canonical JSON and its schema version."""
        return hashlib.sha256(f"{SCHEMA_VERSION}:{self.canonical()}".encode()).hexdigest()[:12]

    def canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def leaves(self) -> dict[str, Any]:
        """Every setting by its dotted path, such as `training.learning_rate`."""
        return _flatten(self.model_dump(mode="json"))

    def with_leaves(self, leaves: dict[str, Any]) -> "Config":
        """A copy with the given dotted paths set. Raises ConfigError that names the key, the value and what is allowed."""
        tree = self.model_dump(mode="json")
        for path, value in leaves.items():
            *sections, key = path.split(".")
            branch = tree
            for section in sections:
                branch = branch.get(section) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or key not in branch or isinstance(branch[key], dict):
                raise ConfigError(_unknown(path, self.leaves()))
            branch[key] = value
        return load(tree)


def load(tree: dict | str) -> Config:
    """A Config from nested dictionaries or JSON. Raises ConfigError in one sentence."""
    try:
        return Config.model_validate_json(tree if isinstance(tree, str) else json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e) for e in error.errors())) from None


def parse_leaf(text: str) -> tuple[str, Any]:
    """`training.steps=100` as a path and a value; values are read as JSON, or as they stand where that fails."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"got '{text}', but a setting is written key=value, such as training.steps=100")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        leaves |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _unknown(path: str, known) -> str:
    import difflib

    near = difflib.get_close_matches(path, known, n=3, cutoff=0.65)
    hint = f"did you mean {' or '.join(near)}?" if near else "allowed are " + ", ".join(known)
    return f"unknown configuration key '{path}': {hint}"


def _sentence(error: dict) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(path, Config().leaves())
    message = error["msg"].removeprefix("Value error, ")
    return f"{path or 'config'}: got {json.dumps(error['input'], default=str)[:80]}; {message[0].lower()}{message[1:]}"
