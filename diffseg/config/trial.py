"""One trial as data: a typed, frozen, hashable configuration.

The canonical JSON of a `Config` is hashed, and the digest is the trial's identity (`Config.digest`). Where data lie on
disk is not part of it: roots are given at run time, so that a study may move between machines.
"""

import hashlib
import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from diffseg.config.leaves import flat
from diffseg.config.presets import expanded
from diffseg.errors import ConfigError

LARGEST_NUMBER = 2**53  # whole numbers beyond it do not fit into the ledger
SCHEMA_VERSION = 1  # raise it when the meaning of a key changes: old trials then count as other trials

Experiment = Literal["e1", "e2", "e3", "e4"]
LAYOUTS = ("isic16", "monuseg", "lidc", "brats", "folder", "synthetic")

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _foreground(value: Any) -> Any:
    """A list of numbers and colours, "nonzero" or ">=N". Raises ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"nonzero|>=[1-9][0-9]{0,8}", value):
        return value
    fits = isinstance(value, list | tuple) and all(
        (isinstance(one, int) and not isinstance(one, bool) and one >= 0)
        or (isinstance(one, str) and re.fullmatch("#[0-9a-fA-F]{6}", one))
        for one in value
    )
    if not fits:
        raise ValueError(
            'allowed are a list of the values of the foreground, such as [2, 3] or ["#ff0000"], '
            '"nonzero", and ">=N", such as ">=128"'
        )
    return tuple(one.lower() if isinstance(one, str) else one for one in value)


Foreground = Annotated[tuple[int | str, ...] | str, BeforeValidator(_foreground)]


# fmt: off
class Augment(Section):
    """Of training images and masks, drawn anew for each."""
    flips: Literal["none", "horizontal", "both", "symmetries"] = "none"  # left–right; also up–down; also quarter turns
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # rotation by up to so many, either way
    zoom: tuple[Positive, Positive] = (1.0, 1.0)          # range of the magnification
    brightness: Fraction = 0.0                            # factors 1 ± up to this, as in torchvision's ColorJitter
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0      # turn of the colour circle, as a share of it, either way

    @model_validator(mode="after")
    def _ordered(self):
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom is {list(self.zoom)}, but its first value must not be above the second")
        return self


class Data(Section):
    name: str = Field("synthetic-large", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # the root is given as `--data NAME=ROOT`
    layout: Literal[LAYOUTS] = "synthetic"
    kind: Literal["large", "many", "clusters"] = "large"  # of object, for the synthetic layout only
    size: Annotated[int, Field(ge=8)] = 64                # side of the square that the network sees, px
    channels: PositiveInt = 3                             # that the network takes; gray images are repeated
    foreground: Foreground = ()                           # of masks: values or "#rrggbb", "nonzero", ">=N"; () for 0 and 255 (or 1)
    objects: bool | None = None                           # several masks of an image are its objects, united; false: raters
    axis: Literal[0, 1, 2] | None = None                  # of volumes, across their slices; that of the largest spacing if None
    normalise: Literal["range", "standard", "case"] = "range"  # to [−1, 1]; mean 0, deviation 1 a channel, of all or of each case
    fit: Literal["resize", "crop"] = "resize"             # whole image squashed to size × size, or random crops of it
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0      # with fit="crop": images are resized by this factor first
    test_crops: bool = False                              # with fit="crop": tested on one crop an image, drawn by seed
    split_seed: Annotated[int, Field(ge=0)] = 0           # of what is drawn for testing, where a layout has no split
    train_images: PositiveInt | None = None               # at most so many (synthetic: exactly so many; 200 if None)
    test_images: PositiveInt | None = None                # at most so many (synthetic: exactly so many; 40 if None)
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0   # share of the training images, in whole patients, tested on instead
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _consistent(self):
        if self.test_crops and self.fit != "crop":
            raise ValueError('test_crops is true, but images are cut into crops with fit="crop" only')
        return self


class UNet(Section):
    width: PositiveInt = 128                                    # channels of the first level, a multiple of 32
    multipliers: Levels = (1, 1, 2, 2, 4, 4)                    # of width, per level
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

    @property
    def divisor(self) -> int:
        """Image sides must be a multiple of it."""
        return 2 ** (len(self.multipliers) - 1)


class EnsemDiff(UNet):
    name: Literal["ensemdiff"] = "ensemdiff"


class SegDiff(UNet):
    name: Literal["segdiff"] = "segdiff"
    multipliers: Levels = (1, 1, 1, 2, 2, 4, 4)
    blocks: PositiveInt = 3
    attention: tuple[PositiveInt, ...] = (16, 32)
    heads: PositiveInt = 4
    rrdb_blocks: PositiveInt = 12                               # of the image encoder
    rrdb_width: PositiveInt = 64                                # its channels
    rrdb_growth: PositiveInt = 32                               # channels that a convolution of its dense blocks adds


class MedSegDiff(UNet):
    name: Literal["medsegdiff"] = "medsegdiff"
    version: Literal["new", "v1"] = "new"                       # of the published code
    calibration: Annotated[float, Field(ge=0)] = 10.0           # weight of the squared error of the network's second output

    @property
    def divisor(self) -> int:
        return 2 ** max(len(self.multipliers) - 1, 3)


class AmbDiff(UNet):
    name: Literal["ambdiff"] = "ambdiff"
    width: PositiveInt = 32
    multipliers: Levels = (1, 1, 2, 4)
    blocks: tuple[PositiveInt, ...] = (1, 2, 3, 4)              # residual blocks of each encoder level
    middle: PositiveInt = 4                                     # residual blocks at the bottom
    attention: tuple[PositiveInt, ...] = (8,)
    heads: PositiveInt = 4

    @model_validator(mode="after")
    def _one_a_level(self):
        if len(self.blocks) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks)} entries, but multipliers has {len(self.multipliers)} levels")
        return self


class SegFormer(Section):
    name: Literal["segformer"] = "segformer"
    encoder: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"] = "mit_b3"
    weights: Literal["imagenet", "none"] = "imagenet"           # that the encoder starts from; imagenet is downloaded once
    divisor: ClassVar[int] = 32


class NNUNet(Section):
    name: Literal["nnunet"] = "nnunet"                          # plans, batch, losses and augmentation are its own
    epochs: PositiveInt = 1000
    iterations: PositiveInt = 250                               # optimiser steps an epoch
    learning_rate: Positive = 1e-2                              # at the start; it falls to 0 as a polynomial
    mirroring: bool = True                                      # at test time
    divisor: ClassVar[int] = 1


NETWORKS = {cls.model_fields["name"].default: cls for cls in (EnsemDiff, SegDiff, MedSegDiff, AmbDiff, SegFormer, NNUNet)}
FEED_FORWARD = ("segformer", "nnunet")  # networks without a noisy mask: E1 only
Network = Annotated[EnsemDiff | SegDiff | MedSegDiff | AmbDiff | SegFormer | NNUNet, Field(discriminator="name")]


PUBLISHED = {  # what None stands for, by the schedule or weighting that uses the setting
    "location": ("schedule", {"laplace": 0.0, "cauchy": 0.0, "edm": -1.2, "logit-normal": 0.0}),
    "spread": ("schedule", {"laplace": 0.5, "cauchy": 1.0, "edm": 1.2, "logit-normal": 1.0}),
    "gamma": ("weighting", {"min-snr": 5.0, "soft-min-snr": 5.0, "p2": 1.0}),
}
CURVES = ("profile", "fingerprint")
FINGERPRINT_HELD_OUT = 0.2  # share of the training masks on which a fingerprint is measured
FINGERPRINT = ("fingerprint", "fingerprint_seeds", "fingerprint_networks", "fingerprint_steps")
USERS = {  # which choices use a setting; with others it is at its default
    **{name: {choice: tuple(values)} for name, (choice, values) in PUBLISHED.items()},
    "activation": {"target": ("x0",)},
    "temperature": {"schedule": ("sigmoid",)},
    "shift": {"schedule": ("shifted-cosine",)},
    "boundary_weight": {"loss": ("boundary",)},
    "boundary_width": {"loss": ("boundary",)},
    "bias": {"weighting": ("sigmoid",)},
    "sigma_data": {"weighting": ("edm",)},
    "density_decay": {"density": ("adaptive",)},
    "unbiased": {"density": CURVES},
    "mixing": {"weighting": CURVES, "density": (*CURVES, "adaptive")},
    "profile": {"weighting": ("profile",), "density": ("profile",)},
    "profile_floor": {"weighting": CURVES, "density": CURVES},
    "profile_exponent": {"weighting": CURVES, "density": CURVES},
    **{name: {"weighting": ("fingerprint",), "density": ("fingerprint",)} for name in FINGERPRINT},
}


class Diffusion(Section):
    # The noise levels λ(t), t from 0 (clean) to 1 (noise): diffusion/schedules.py
    schedule: Literal["linear", "linear-continuous", "cosine", "shifted-cosine", "sigmoid", "simple-linear",
                      "laplace", "cauchy", "edm", "logit-normal"] = "linear"
    steps: PositiveInt = 1000                             # T of the published discrete chain; the network sees t·T − 1
    location: float | None = None                         # of λ (laplace, cauchy) or ln(σ/α) (edm, logit-normal); published if None
    spread: Positive | None = None                        # of the same
    temperature: Annotated[float, Field(ge=0.1)] = 1.0    # τ of the sigmoid schedule
    shift: Positive = 0.25                                # noise_d/image_d of shifted-cosine; as published for 64 and 256 px
    input_scale: Positive = 1.0                           # b of the input b·x0, which adds 2 ln b to the log-SNR
    log_snr_max: Annotated[float, Field(ge=-60, le=20)] = 20.0
    log_snr_min: Annotated[float, Field(ge=-60, le=20)] = -20.0
    ends: Literal["limited", "exact", "zero-terminal"] = "limited"  # these are limits; or met at both ends; or at t = 1, in α
    # What the network is told and predicts: diffusion/targets.py
    time: Literal["steps", "unit"] = "steps"              # t·T − 1, or t itself
    coding: Literal["pm1", "01"] = "pm1"                  # mask values: −1 and 1, or 0 and 1
    self_conditioning: bool = False                       # it is also given its last x̂0; in training, in half of the steps
    target: Literal["epsilon", "x0", "v"] = "epsilon"
    activation: Literal["identity", "tanh", "sigmoid"] = "identity"  # of an x0 output, mapped onto the coding's range
    variance: Literal["small", "large", "learned"] = "small"  # of the ancestral step; learned: a second output
    # What is minimised: diffusion/losses.py and weightings.py
    loss: Literal["mse", "cross-entropy", "dice-cross-entropy", "boundary"] = "mse"  # boundary: weighted MSE
    boundary_weight: Positive = 10.0                      # of a pixel at the mask's border, added to the 1 of all
    boundary_width: Annotated[float, Field(gt=0, le=20)] = 5.0  # standard deviation of its fall with the distance, px
    reduction: Literal["mean", "sum"] = "mean"            # of the loss over an image's pixels and channels
    weighting: Literal["target", "uniform", "snr", "snr+1", "truncated-snr", "min-snr", "soft-min-snr", "p2", "sigmoid",
                       "edm", "debiased", "learned", "profile",
                       "fingerprint"] = "target"          # on x0's loss; target: none on the target's own
    gamma: Positive | None = None                         # SNR where (soft-)min-snr levels off; p2's exponent; published if None
    bias: float = 0.0                                     # log-SNR where the sigmoid weight is a half
    sigma_data: Positive = 0.5                            # standard deviation of the data in the edm weight
    decoupled: bool = False                               # times −dλ/dt: a noise level weighs the same in every schedule
    # Training timesteps: diffusion/densities.py
    density: Literal["uniform", "independent", "adaptive", "profile", "fingerprint"] = "uniform"  # independent: not stratified
    discrete: bool = False                                # training timesteps are the points i/T, as published
    unbiased: bool = False                                # the loss is divided by a curve's density; by the adaptive, always
    density_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of the loss's moving average behind the adaptive density
    # A curve over the log-SNR for weighting or density, the data set's measured fingerprint or one's own: diffusion/profile.py
    fingerprint: Literal["mask-error", "entropy-rate", "dice", "cross-entropy"] = "mask-error"  # kinds: fingerprint.py
    fingerprint_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)  # of the E3 trials that are measured; their mean
    fingerprint_networks: tuple[Literal["ensemdiff", "segdiff", "medsegdiff"], ...] = ()  # E3's; the trial's own if empty
    fingerprint_steps: PositiveInt | None = None          # E3's training steps; the trial's own if None
    profile: tuple[tuple[float, Annotated[float, Field(ge=0)]], ...] = ()  # knots [log-SNR, weight], joined by straight lines
    profile_floor: Fraction = 0.0                         # least weight, as a share of the greatest
    profile_exponent: Positive = 1.0
    mixing: Fraction = 0.0                                # share of a constant, in the adaptive density, too

    @model_validator(mode="after")
    def _consistent(self):
        if self.schedule == "linear" and not 25 <= self.steps <= 10_000:
            raise ValueError(f"steps is {self.steps}, but the linear schedule (β up to 20/steps) is defined for 25 to 10000")
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(f"log_snr_min is {self.log_snr_min:g}, but it must be below log_snr_max, {self.log_snr_max:g}")
        if "cross-entropy" in self.loss and (self.target, self.activation) != ("x0", "sigmoid"):
            raise ValueError(f"loss {self.loss} is of logits of the mask: set diffusion.target=x0 and diffusion.activation=sigmoid")
        if self.weighting == "learned" and self.density == "adaptive":
            raise ValueError("density adaptive needs a loss that is never negative, but weighting learned makes it a logarithm")
        if len(set(self.fingerprint_seeds)) < len(self.fingerprint_seeds):
            raise ValueError(f"fingerprint_seeds is {list(self.fingerprint_seeds)}, but they must differ")
        levels, weights = [level for level, _ in self.profile], [weight for _, weight in self.profile]
        if "profile" in (self.weighting, self.density) and len(levels) < 2:
            raise ValueError("weighting or density profile needs diffusion.profile, two or more knots [log-SNR, weight]")
        if {self.weighting, self.density} == {"profile", "fingerprint"}:
            raise ValueError("weighting and density are of one curve: set both to profile, or both to fingerprint")
        if levels != sorted(set(levels)) or (weights and not any(weights)):
            raise ValueError("the knots of diffusion.profile must rise in log-SNR, and one weight at least must be above 0")
        return self

    def published(self, name: str) -> float:
        """A setting, or, where it is None, what was published for the schedule or weighting that uses it."""
        choice, values = PUBLISHED[name]
        value = getattr(self, name)
        return values[getattr(self, choice)] if value is None else value

    def resolved(self) -> "Diffusion":
        """With what the choices do not use at its default, and published values in place of None."""
        leaves = self.model_dump()
        for name, users in USERS.items():
            if not any(getattr(self, choice) in values for choice, values in users.items()):
                leaves.pop(name)
            elif name in PUBLISHED:
                leaves[name] = self.published(name)
        if self.density == "adaptive":
            leaves["unbiased"] = True
        if self.weighting == "learned":
            leaves.pop("decoupled")  # a factor that depends on the noise level only is learnt away
        return Diffusion(**leaves)


class Training(Section):
    steps: PositiveInt = 60_000
    batch: PositiveInt = 10
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0               # steps of linear rise of the learning rate
    decay: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate, to 0 at the last step
    decay_steps: PositiveInt | None = None                # it falls over so many last steps; all after the warm-up if None
    clip: Positive | None = None                          # largest norm of the gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999     # decay per step, warmed up as (1 + n)/(10 + n); 0: no EMA
    precision: Literal["float32", "bf16"] = "bf16"        # bf16: autocast where the device computes in it, else float32
    compile: bool | None = None                           # torch.compile; None: long trainings, where it has been seen to pay
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0 # E1: share of the images that first finds the number of epochs
    snapshots: tuple[Fraction, ...] = (0.75, 1.0)         # shares of the steps at which errors over t are measured
    evaluations: tuple[Fraction, ...] = ()                # E1, E2: shares of the steps at which test images are segmented
    log_every: PositiveInt = 50                           # steps between points of the learning curve
    checkpoint_every: PositiveInt = 1000                  # steps between checkpoints


X0_STEPS = 10  # of sampling with the x0-target: more of them make IoU, ECE and GED worse (README, "How many steps")


class Inference(Section):
    sampler: Literal["ancestral", "ddim", "dpm-solver++"] = "ancestral"
    eta: Fraction = 0.0                                   # of ddim: 0 draws no noise, 1 as much as ancestral with small variance
    steps: PositiveInt | None = None                      # network evaluations a sample; None: X0_STEPS, of others the chain's T
    settled: PositiveInt | None = None                    # end a sample whose mask has been the same for so many steps
    clip: Literal["coding", "pm1", "none"] = "coding"     # of x̂0 while sampling: to the coding's range, to ±1, or not
    ensemble: PositiveInt = 5                             # predictions an image
    seeds: tuple[Seed, ...] = ()  # E1: a deep ensemble of the trials with these seeds
    merge: Literal["mean", "vote", "staple"] = "mean"     # of soft masks; of masks cut at 0.5: their mean, or STAPLE
    threshold: Fraction = 0.5                             # on the merged probability
    augment: Literal["none", "symmetries"] = "none"       # at test time: members see the square's eight symmetries in turn
    batch: PositiveInt = 64                               # tiles × members in one pass
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5    # of neighbouring tiles, with data.fit="crop"
    timesteps: Annotated[int, Field(ge=2)] = 50           # noise levels at which errors are measured
    timestep_images: PositiveInt = 64                     # test images (or crops), with a noise each, to average over
    resolution: Literal["network", "original"] = "network"  # at which predictions are compared with the masks
    evaluation_images: PositiveInt = 16                   # first test images that training.evaluations are averaged over
    examples: Annotated[int, Field(ge=0)] = 4             # test images whose maps are kept for the report


# fmt: on
# Settings of inference that errors over the noise levels depend on.
MEASURED = {"batch", "timesteps", "timestep_images"}


class Config(Section):
    experiment: Experiment = "e2"
    seed: Seed = 0
    data: Data = Data()
    network: Network = EnsemDiff()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    inference: Inference = Inference()

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
            raise ConfigError(f"network.name: got {_shown(name)}; allowed are {', '.join(NETWORKS)}")
        leaves = expanded(leaves, name)
        if name != self.network.name and name in NETWORKS:  # another network has other settings
            tree["network"] = NETWORKS[name]().model_dump(mode="json")
        for path, value in leaves.items():
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise ConfigError(f"{path}: got {_shown(value)}; whole numbers are at most {LARGEST_NUMBER}")
            *sections, key = path.split(".")
            branch = tree
            for section in sections:
                branch = branch.get(section) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or key not in branch or isinstance(branch[key], dict):
                raise ConfigError(_unknown(path, flat(tree)))
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


def parse_leaf(text: str) -> tuple[str, Any]:
    """`training.steps=100` as a path and a value; values are read as JSON, or as they stand where that fails."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"got '{text}', but a setting is written key=value, such as training.steps=100")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists in lists
        raise ConfigError(f"{path}: got {value[:40]}…; such a value is too long or nested too deeply") from None


def _shown(value: Any) -> str:
    """A value of any kind, on one short line."""
    try:
        return json.dumps(value, default=str)[:80]
    except (ValueError, RecursionError):
        return "a value that is too long or nested too deeply"


def _unknown(path: str, known) -> str:
    import difflib

    near = difflib.get_close_matches(path, known, n=3, cutoff=0.65)
    hint = f"did you mean {' or '.join(near)}?" if near else "allowed are " + ", ".join(known)
    return f"unknown configuration key '{path}': {hint}"


def _sentence(error: dict) -> str:
    section, *parts = error["loc"] or ("",)
    tag = parts.pop(0) if section == "network" and parts else "ensemdiff"  # pydantic names the network, too
    path = ".".join(map(str, (section, *parts)))
    if error["type"] == "extra_forbidden":
        return _unknown(path, Config(network=NETWORKS[tag]()).leaves())
    if error["type"] == "union_tag_invalid":
        return f"network.name: got {json.dumps(error['ctx']['tag'])}; allowed are {', '.join(NETWORKS)}"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    if isinstance(error["input"], dict):  # several settings of a section do not go together
        return f"{path}: {message}"
    return f"{path}: got {json.dumps(error['input'], default=str)[:80]}; {message[0].lower()}{message[1:]}"
