"""Settings of the diffusion: noise levels, targets, losses, weightings and training timesteps."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffseg.section import Fraction, Positive, PositiveInt, Section, Seed

PUBLISHED = {  # what None stands for, by the schedule or weighting that uses the setting
    "location": ("schedule", {"laplace": 0.0, "cauchy": 0.0, "edm": -1.2, "logit-normal": 0.0}),
    "spread": ("schedule", {"laplace": 0.5, "cauchy": 1.0, "edm": 1.2, "logit-normal": 1.0}),
    "gamma": ("weighting", {"min-snr": 5.0, "soft-min-snr": 5.0, "p2": 1.0}),
}


CURVES = ("profile", "fingerprint")


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


# fmt: off
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
