"""One define-by-run space a question, for Optuna: conditional spaces over the leaves of `Config`.

A space is a function of an Optuna trial. Every parameter that it suggests is a leaf by its dotted path, so that the
trial's parameters are the settings to set over a study's own; what it does not suggest stays as the study has it. A
setting that only some choices use is suggested with those alone, and of settings that come to the same only one varies:
`input_scale` shifts every schedule along the log-SNR, so `shift` and `location` do not vary.
"""

from collections.abc import Callable
from typing import get_args

from diffseg.config import PUBLISHED, Diffusion

SCHEDULES = ["linear", "cosine", "sigmoid", "simple-linear", "laplace", "cauchy", "edm", "logit-normal"]
WEIGHTINGS = ["target", "uniform", "snr", "snr+1", "truncated-snr", "min-snr", "soft-min-snr", "p2", "sigmoid", "edm",
              "debiased", "learned"]  # fmt: skip


def schedule(trial) -> None:
    """Which noise levels, how hard, and with how much noise at the end?"""
    chosen = trial.suggest_categorical("diffusion.schedule", SCHEDULES)
    if chosen == "sigmoid":
        trial.suggest_float("diffusion.temperature", 0.3, 1.5)
    if chosen in PUBLISHED["spread"][1]:
        trial.suggest_float("diffusion.spread", 0.3, 3.0, log=True)
    trial.suggest_float("diffusion.input_scale", 0.03, 1.0, log=True)
    if trial.suggest_categorical("diffusion.ends", ["limited", "zero-terminal"]) == "zero-terminal":
        trial.suggest_float("diffusion.log_snr_min", -20.0, -8.0)


def target(trial) -> None:
    """What does the network predict, through which activation, and by which loss, at noise how hard?"""
    if trial.suggest_categorical("diffusion.target", ["epsilon", "x0", "v"]) == "x0":
        activation = trial.suggest_categorical("diffusion.activation", ["identity", "tanh", "sigmoid"])
        if activation == "sigmoid":
            trial.suggest_categorical("diffusion.loss", ["mse", "cross-entropy", "dice-cross-entropy"])
    trial.suggest_float("diffusion.input_scale", 0.03, 1.0, log=True)


def weighting(trial) -> None:
    """Which loss weight over the noise levels, and which density of training timesteps?"""
    _weighting(trial, WEIGHTINGS, ["uniform", "adaptive"])


def fingerprint(trial) -> None:
    """Does the data set's fingerprint serve as the weight, as the density or as both, in which form?"""
    _weighting(trial, ["uniform", "fingerprint"], ["uniform", "fingerprint"])


def everything(trial) -> None:
    """All of the above, and self-conditioning."""
    schedule(trial)
    target(trial)
    _weighting(trial, [*WEIGHTINGS, "fingerprint"], ["uniform", "adaptive", "fingerprint"])
    trial.suggest_categorical("diffusion.self_conditioning", [False, True])


def _weighting(trial, weightings: list[str], densities: list[str]) -> None:
    weight = trial.suggest_categorical("diffusion.weighting", weightings)
    if weight in ("min-snr", "soft-min-snr"):
        trial.suggest_float("diffusion.gamma", 1.0, 20.0, log=True)
    if weight == "sigmoid":
        trial.suggest_float("diffusion.bias", -8.0, 4.0)
    if weight == "learned":  # it divides by the expected loss, which undoes factors and densities that follow the loss
        return
    if weight not in ("target", "fingerprint"):
        trial.suggest_categorical("diffusion.decoupled", [False, True])
    density = trial.suggest_categorical("diffusion.density", densities)
    if "fingerprint" in (weight, density):
        trial.suggest_categorical("diffusion.fingerprint", _fingerprints())
        trial.suggest_float("diffusion.profile_floor", 0.0, 0.3)
        trial.suggest_float("diffusion.profile_exponent", 0.5, 2.0, log=True)
    if "fingerprint" in (weight, density) or density == "adaptive":
        trial.suggest_float("diffusion.mixing", 0.0, 0.5)
    if density == "fingerprint":
        trial.suggest_categorical("diffusion.unbiased", [False, True])


def _fingerprints() -> list[str]:
    """The kinds of profile that a configuration can take from a fingerprint."""
    return list(get_args(Diffusion.model_fields["fingerprint"].annotation))


SPACES: dict[str, Callable] = {
    space.__name__: space for space in (schedule, target, weighting, fingerprint, everything)
}
