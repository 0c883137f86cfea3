"""Search spaces over the settings of `diffusion`, one a question: functions that suggest settings of an Optuna trial.

A space calls `trial.suggest_categorical` and `trial.suggest_float` with the dotted path of a setting and its choices or its
range. What it suggests is set over the study's own configuration; what it does not suggest stays as the study has it. To add
a space, write such a function and list it in `SPACES`: its name is then allowed as `space` in a study file.

    def ends(trial: Trial) -> None:
        if trial.suggest_categorical("diffusion.ends", ["limited", "zero-terminal"]) == "zero-terminal":
            trial.suggest_float("diffusion.log_snr_min", -20.0, -8.0)

Two rules keep a space free of settings without an effect, on which a sampler would waste trials:

* A setting that only some choices use is suggested only together with these (`USERS` in diffseg/config/diffusion.py).
* Of settings that do the same, only one varies. `input_scale` shifts every schedule along the log-SNR, so `shift` and
  `location`, and the schedule `shifted-cosine`, do not vary. `linear-continuous` is `linear` in continuous time.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, get_args

from diffseg.config import PUBLISHED, Diffusion

SCHEDULES = ["linear", "cosine", "sigmoid", "simple-linear", "laplace", "cauchy", "edm", "logit-normal"]
WEIGHTINGS = ["target", "uniform", "snr", "snr+1", "truncated-snr", "min-snr", "soft-min-snr", "p2", "sigmoid", "edm",
              "debiased", "learned"]  # fmt: skip


class Trial(Protocol):
    """The part of an Optuna trial that a space uses. Both methods return the value that the sampler chose."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of the values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number of the range, uniform in its logarithm if log is true."""


def schedule(trial: Trial) -> None:
    """Vary the noise levels: their schedule, how much noise there is on the whole, and how much at the end."""
    chosen = trial.suggest_categorical("diffusion.schedule", SCHEDULES)
    if chosen == "sigmoid":
        trial.suggest_float("diffusion.temperature", 0.3, 1.5)  # published: 1 (Jabri et al., 2023; Chen, 2023)
    if chosen in PUBLISHED["spread"][1]:
        trial.suggest_float("diffusion.spread", 0.3, 3.0, log=True)  # published: 0.5 to 1.2, by schedule
    _suggest_input_scale(trial)
    if trial.suggest_categorical("diffusion.ends", ["limited", "zero-terminal"]) == "zero-terminal":
        trial.suggest_float("diffusion.log_snr_min", -20.0, -8.0)


def target(trial: Trial) -> None:
    """Vary what the network predicts, through which activation and by which loss, and how much noise there is."""
    if trial.suggest_categorical("diffusion.target", ["epsilon", "x0", "v"]) == "x0":
        activation = trial.suggest_categorical("diffusion.activation", ["identity", "tanh", "sigmoid"])
        if activation == "sigmoid":  # cross-entropies are those of its logits
            trial.suggest_categorical("diffusion.loss", ["mse", "cross-entropy", "dice-cross-entropy"])
    _suggest_input_scale(trial)


def weighting(trial: Trial) -> None:
    """Vary the loss weight over the noise levels, and the density of the training timesteps."""
    _suggest_weighting(trial, WEIGHTINGS, ["uniform", "adaptive"])


def fingerprint(trial: Trial) -> None:
    """Vary whether the data set's fingerprint is the loss weight, the density of timesteps, or both, and in which form."""
    _suggest_weighting(trial, ["uniform", "fingerprint"], ["uniform", "fingerprint"])


def everything(trial: Trial) -> None:
    """Vary all of the above, and self-conditioning."""
    schedule(trial)
    target(trial)
    _suggest_weighting(trial, [*WEIGHTINGS, "fingerprint"], ["uniform", "adaptive", "fingerprint"])
    trial.suggest_categorical("diffusion.self_conditioning", [False, True])


def _suggest_input_scale(trial: Trial) -> None:
    """Vary b of the input b·x0 over the values that Christensen et al., 2025, compare."""
    trial.suggest_float("diffusion.input_scale", 0.03, 1.0, log=True)


def _suggest_weighting(trial: Trial, weightings: list[str], densities: list[str]) -> None:
    """Vary weighting and density among these, with the settings that the chosen ones use."""
    weight = trial.suggest_categorical("diffusion.weighting", weightings)
    if weight in ("min-snr", "soft-min-snr"):
        trial.suggest_float("diffusion.gamma", 1.0, 20.0, log=True)  # the range that Hang et al., 2023, compare
    if weight == "sigmoid":
        trial.suggest_float("diffusion.bias", -8.0, 4.0)  # Christensen et al., 2025, compare −6 to 2
    if weight == "learned":  # it divides by the expected loss, which undoes factors and densities that follow the loss
        return
    if weight not in ("target", "fingerprint"):
        trial.suggest_categorical("diffusion.decoupled", [False, True])
    density = trial.suggest_categorical("diffusion.density", densities)
    if "fingerprint" in (weight, density):
        trial.suggest_categorical("diffusion.fingerprint", _list_fingerprints())
        trial.suggest_float("diffusion.profile_floor", 0.0, 0.3)
        trial.suggest_float("diffusion.profile_exponent", 0.5, 2.0, log=True)
    if "fingerprint" in (weight, density) or density == "adaptive":
        trial.suggest_float("diffusion.mixing", 0.0, 0.5)
    if density == "fingerprint":
        trial.suggest_categorical("diffusion.unbiased", [False, True])


def _list_fingerprints() -> list[str]:
    """Return the kinds of curve that `diffusion.fingerprint` allows."""
    return list(get_args(Diffusion.model_fields["fingerprint"].annotation))


SPACES: dict[str, Callable[[Trial], None]] = {
    "schedule": schedule,
    "target": target,
    "weighting": weighting,
    "fingerprint": fingerprint,
    "everything": everything,
}
WITH_FINGERPRINT = ("fingerprint", "everything")  # spaces with proposals that need E3 trials
