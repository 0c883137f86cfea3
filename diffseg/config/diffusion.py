"""Settings of the diffusion: noise levels, targets, losses, weightings and training timesteps."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from diffseg.networks.registry import NETWORKS
from diffseg.section import Curve, Fraction, Positive, PositiveInt, Section, Seed, Users, check_curve, unused

PUBLISHED = {  # setting → (the choice that uses it, its published value by that choice), which None stands for
    "location": ("schedule", {"laplace": 0.0, "cauchy": 0.0, "edm": -1.2, "logit-normal": 0.0}),
    "spread": ("schedule", {"laplace": 0.5, "cauchy": 1.0, "edm": 1.2, "logit-normal": 1.0}),
    "gamma": ("weighting", {"min-snr": 5.0, "soft-min-snr": 5.0, "p2": 1.0}),
}
CURVES = ("profile", "fingerprint", "online")
ONLINE = ("mask-error", "entropy-rate")  # kinds of curve that follow from the errors of x̂0
FINGERPRINT = ("fingerprint", "fingerprint_class", "fingerprint_seeds", "fingerprint_networks", "fingerprint_steps")
USERS: Users = {  # setting → the choices that use it; with others it is at its default
    **{name: {choice: tuple(values)} for name, (choice, values) in PUBLISHED.items()},
    "activation": {"target": ("x0",)},
    "temperature": {"schedule": ("sigmoid",)},
    "shift": {"schedule": ("shifted-cosine",)},
    "distance_limit": {"coding": ("sdf",)},
    "boundary_weight": {"loss": ("boundary",)},
    "boundary_width": {"loss": ("boundary",)},
    "bias": {"weighting": ("sigmoid",)},
    "sigma_data": {"weighting": ("edm",), "target": ("edm",)},
    "switch": {"target": ("x0-epsilon",)},
    "estimate": {"self_conditioning": (True,)},
    "density_decay": {"density": ("adaptive",)},
    "unbiased": {"density": CURVES},
    "mixing": {"weighting": CURVES, "density": (*CURVES, "adaptive")},
    "profile": {"weighting": ("profile",), "density": ("profile",)},
    "profile_floor": {"weighting": CURVES, "density": CURVES},
    "profile_exponent": {"weighting": CURVES, "density": CURVES},
    **{name: {"weighting": ("fingerprint",), "density": ("fingerprint",)} for name in FINGERPRINT},
    "fingerprint": {"weighting": ("fingerprint", "online"), "density": ("fingerprint", "online")},
}


def _stand_ins() -> list[str]:
    return [name for name, network in NETWORKS.items() if network.stands_in]


def _check_stand_in(name: str) -> str:
    if name not in _stand_ins():
        raise ValueError(f"allowed are {', '.join(_stand_ins())}")
    return name


StandIn = Annotated[  # name of a network that may measure another's fingerprint
    str, AfterValidator(_check_stand_in), Field(json_schema_extra=lambda schema: schema.update(enum=_stand_ins()))
]


# fmt: off
class Diffusion(Section):
    """Settings of the diffusion process, of its training objective, and of the noise levels that are trained."""

    # The noise levels λ(t), t from 0 (clean) to 1 (noise): diffusion/schedules.py
    schedule: Literal["linear", "linear-continuous", "cosine", "shifted-cosine", "sigmoid", "simple-linear",
                      "laplace", "cauchy", "edm", "logit-normal", "flow"] = Field("linear",
        description="Noise schedule λ(t), the log-SNR. flow: uniform t along the straight path of flow matching.")
    steps: PositiveInt = Field(1000, description="T, the number of steps of the published discrete chain.")
    location: float | None = Field(None,
        description="Location of λ (laplace, cauchy) or of ln(σ/α) (edm, logit-normal). None: the published value.")
    spread: Positive | None = Field(None,
        description="Scale of λ (laplace, cauchy) or of ln(σ/α) (edm, logit-normal). None: the published value.")
    temperature: float = Field(1.0, ge=0.1, description="τ of the sigmoid schedule.")
    shift: Positive = Field(0.25, description="noise_d/image_d of shifted-cosine; the default was published for 64 and 256 px.")
    input_scale: Positive = Field(1.0, description="b of the scaled input b·x0, which adds 2 ln b to the log-SNR.")
    log_snr_max: float = Field(20.0, ge=-60, le=20, description="Largest log-SNR, at t = 0.")
    log_snr_min: float = Field(-20.0, ge=-60, le=20, description="Smallest log-SNR, at t = 1.")
    ends: Literal["limited", "exact", "zero-terminal"] = Field("limited",
        description="limited: the log-SNR stays within its limits; exact: it meets both; zero-terminal: that at t = 1, in α.")
    # What the network is given and predicts: diffusion/targets.py
    time: Literal["steps", "unit"] = Field("steps", description="Timestep that the network is given: t·T − 1, or t itself.")
    coding: Literal["pm1", "01", "bits", "sdf"] = Field("pm1",
        description="Signal in place of a mask. One channel a class: −1 and 1, 0 and 1, or the signed distance to its border "
                    "(sdf); bits: the binary digits of the class's number.")
    distance_limit: float = Field(8.0, ge=1, le=64, description="Distance at which the signed distance of coding sdf is cut, px.")
    self_conditioning: bool = Field(False,
        description="Give the network its last x̂0, too: in every sampling step, and in half of the training steps.")
    estimate: Literal["same-level", "noisier-level"] = Field("same-level",
        description="Where that x̂0 is made in training: at the step's own noise level, or at a noisier one, as in sampling.")
    recycling: Fraction = Field(0.0,
        description="Share of the training steps that noise the network's own x̂0 of a noisier level in place of the mask.")
    input_perturbation: float = Field(0.0, ge=0, le=1,
        description="Deviation of noise that is added to x_t's own in training, unknown to the target.")
    target: Literal["epsilon", "x0", "v", "flow", "edm", "x0-epsilon"] = Field("epsilon",
        description="What the network predicts: the noise, the mask, or v. flow: ε − x0; edm: F of EDM's preconditioning; "
                    "x0-epsilon: the mask at much noise, ε at little.")
    switch: float = Field(0.0, ge=-60, le=20, description="Log-SNR from which the target x0-epsilon is ε.")
    activation: Literal["identity", "tanh", "sigmoid"] = Field("identity",
        description="Activation of an x0 output, mapped onto the coding's range. sigmoid: softmax where exclusive classes compete.")
    variance: Literal["small", "large", "learned"] = Field("small",
        description="Variance of the ancestral step. learned: a second output of the network interpolates between the others.")
    # What is minimised: diffusion/losses.py and weightings.py
    loss: Literal["mse", "cross-entropy", "dice-cross-entropy", "boundary"] = Field("mse",
        description="Loss at one noise level. boundary: mean squared error with more weight at the mask's border.")
    boundary_weight: Positive = Field(10.0, description="Weight of a pixel at the mask's border, added to the 1 of all pixels.")
    boundary_width: float = Field(5.0, gt=0, le=20,
        description="Standard deviation of that weight's fall with the distance to the border, px.")
    reduction: Literal["mean", "sum"] = Field("mean", description="Reduction of the loss over an image's pixels and channels.")
    weighting: Literal["target", "uniform", "snr", "snr+1", "truncated-snr", "min-snr", "soft-min-snr", "p2", "sigmoid",
                       "edm", "debiased", "learned", "profile", "fingerprint", "online"] = Field("target",
        description="Weight of a noise level, stated on x0's squared error. target: the target's own error is not weighted.")
    gamma: Positive | None = Field(None,
        description="SNR at which (soft-)min-snr levels off; exponent of p2. None: the published value.")
    bias: float = Field(0.0, description="Log-SNR at which the sigmoid weight is a half.")
    sigma_data: Positive = Field(0.5, description="Standard deviation of the data in the edm weight, and in the edm target.")
    decoupled: bool = Field(False,
        description="Multiply the weight by −dλ/dt, so that a noise level weighs the same in every schedule.")
    # Training timesteps: diffusion/densities.py
    density: Literal["uniform", "independent", "adaptive", "profile", "fingerprint", "online"] = Field("uniform",
        description="Density of the training timesteps. independent: uniform, but not stratified over the batch; online: by E2's "
                    "own errors while it trains.")
    discrete: bool = Field(False, description="Train on the points i/T only, as published.")
    unbiased: bool = Field(False, description="Divide the loss by a curve's density; the adaptive density always does.")
    density_decay: float = Field(0.999, ge=0, lt=1, description="Decay of the loss's moving average behind the adaptive density.")
    # A curve over the log-SNR for weighting or density, measured or one's own: diffusion/profile.py
    fingerprint: Literal["mask-error", "entropy-rate", "dice", "cross-entropy"] = Field("mask-error",
        description="Kind of the measured curve that stands in for a profile: the data set's fingerprint, or E2's own (online).")
    fingerprint_class: str | None = Field(None,
        description="Class of data.classes whose fingerprint it is. None: the mean over the classes.")
    fingerprint_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field((0,),
        description="Seeds of the E3 trials whose mean is the fingerprint.")
    fingerprint_networks: tuple[StandIn, ...] = Field((),
        description="Networks of the E3 trials that measure the fingerprint. Empty: the trial's own.")
    fingerprint_steps: PositiveInt | None = Field(None, description="Training steps of those E3 trials. None: the trial's own.")
    profile: Curve = Field((),
        description="Curve of one's own: knots [log-SNR, weight], joined by straight lines.")
    profile_floor: Fraction = Field(0.0, description="Smallest weight of the curve, as a share of its greatest.")
    profile_exponent: Positive = Field(1.0, description="Power to which the curve is raised.")
    mixing: Fraction = Field(0.0, description="Share of a constant that is mixed into the curve, or into the adaptive density.")

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.schedule == "linear" and not 25 <= self.steps <= 10_000:
            raise ValueError(f"steps is {self.steps}, but the linear schedule (β up to 20/steps) is defined for 25 to 10000")
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(f"log_snr_min is {self.log_snr_min:g}, but it must be below log_snr_max, {self.log_snr_max:g}")
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        if "cross-entropy" in self.loss and (self.target, self.activation) != ("x0", "sigmoid"):
            raise ValueError(f"loss {self.loss} needs logits of the mask: set diffusion.target=x0 and diffusion.activation=sigmoid")
        if "cross-entropy" in self.loss and self.coding == "sdf":
            raise ValueError(f"loss {self.loss} needs logits, but coding sdf holds distances: take coding pm1 or 01, or loss mse")
        if self.loss == "dice-cross-entropy" and self.coding == "bits":
            raise ValueError("loss dice-cross-entropy needs one channel a class, but coding bits has digits: take coding pm1 or 01")
        if self.weighting == "learned" and self.density == "adaptive":
            raise ValueError("density adaptive needs a loss that is never negative, but weighting learned makes it a logarithm")
        return self

    @model_validator(mode="after")
    def _check_curve(self) -> Self:
        if len(set(self.fingerprint_seeds)) < len(self.fingerprint_seeds):
            raise ValueError(f"fingerprint_seeds is {list(self.fingerprint_seeds)}, but they must differ")
        if "profile" in (self.weighting, self.density) and len(self.profile) < 2:
            raise ValueError("weighting or density profile needs diffusion.profile, two or more knots [log-SNR, weight]")
        if len(used := {self.weighting, self.density}.intersection(CURVES)) > 1:
            raise ValueError(f"weighting and density must be of one curve: set both to {' or both to '.join(sorted(used))}")
        if used == {"online"} and self.fingerprint not in ONLINE:
            raise ValueError(
                f"weighting or density online has no curve {self.fingerprint}: set diffusion.fingerprint to {' or '.join(ONLINE)}"
            )
        check_curve("diffusion.profile", self.profile)
        return self

    # fmt: on

    def published(self, name: str) -> float:
        """Return a setting, or, if it is None, the value published for the schedule or weighting that uses it."""
        choice, values = PUBLISHED[name]
        value: float | None = getattr(self, name)
        return values[getattr(self, choice)] if value is None else value

    def resolved(self) -> "Diffusion":
        """Return a copy with unused settings at their defaults, and published values in place of None."""
        leaves, left_out = self.model_dump(), unused(self, USERS)
        for name in left_out:
            leaves.pop(name)
        for name in PUBLISHED.keys() - left_out:
            leaves[name] = self.published(name)
        if self.density == "adaptive":
            leaves["unbiased"] = True
        if self.weighting == "learned":
            leaves.pop("decoupled")  # the learned weight cancels any factor that depends on the noise level alone
        return Diffusion(**leaves)
