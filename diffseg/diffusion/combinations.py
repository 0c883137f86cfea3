"""Combinations of settings that are allowed but known to train or sample badly. `Config` refuses impossible ones."""

import math

import torch

from diffseg.config import Config, Diffusion, Inference
from diffseg.diffusion import profile
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.samplers import count_steps
from diffseg.diffusion.schedules import log_snr
from diffseg.diffusion.weightings import WEIGHTINGS, weight_on_target

MAGNIFIED = -12.0  # λ below which an error in ε is too large in x0; the linear schedule of T = 1000 ends at −10.1
UNEVEN = 1e3  # how many times more the ε-loss may weigh at the end than in the middle
LONG = 4.0  # factor by which σ/α may fall in a step of Heun's method: beyond it, quality was seen to collapse
MEASURED_GRIDS = ("entropic", "least-kl")  # whose levels are known after the training alone
VISIBLE = -8.0  # λ above which large masks can still be seen


def find_problems(config: Config) -> list[str]:
    """Return one sentence for each known problem of a configuration.

    Only E2 has any: E3 and E4 are measured, not sampled from.
    """
    if config.experiment != "e2":
        return []
    diffusion = config.resolved().diffusion
    middle, last = log_snr(torch.tensor([0.5, 1.0], dtype=torch.float64), diffusion)
    found = [
        _check_magnified_error(diffusion, last),
        _check_uneven_weights(diffusion, middle, last),
        _check_visible_masks(last),
        _check_untrained_levels(diffusion),
        _check_long_steps(config.resolved().inference, diffusion),
    ]
    return [sentence for sentence in found if sentence]


def _check_magnified_error(diffusion: Diffusion, last: torch.Tensor) -> str | None:
    """Check that ε determines x0 at the last λ. At α = 0 it does not, as x̂0 = (x_t − σ ε̂)/α (Lin et al., 2024, Sec. 3.3)."""
    if diffusion.target == "epsilon" and last < MAGNIFIED:
        return (
            f"diffusion.target=epsilon with a last log-SNR of {float(last):.1f} magnifies the network's error "
            f"{math.exp(-float(last) / 2):,.0f}-fold in the first step of sampling: take target v or x0, or a log_snr_min of "
            f"{MAGNIFIED:g} or more"
        )
    return None


def _check_uneven_weights(diffusion: Diffusion, middle: torch.Tensor, last: torch.Tensor) -> str | None:
    """Check that the ε-loss does not weigh far more at the last λ than in the middle.

    Such weights were seen to diverge, with uniform and truncated-snr (Hang et al., 2023, Fig. 5).
    """
    if diffusion.target != "epsilon" or diffusion.weighting not in WEIGHTINGS:
        return None
    in_middle, at_end = (float(weight_on_target(level, diffusion)) for level in (middle, last))
    if at_end > UNEVEN * in_middle:
        return (
            f"diffusion.target=epsilon with weighting {diffusion.weighting} weighs the ε-loss {at_end / in_middle:,.0f} times "
            "more at t = 1 than at t = 0.5, which is known to diverge: take target v or x0, or weighting min-snr"
        )
    return None


def _check_visible_masks(last: torch.Tensor) -> str | None:
    """Check that masks are hidden by the noise at the last λ, since sampling starts from noise alone."""
    if last > VISIBLE:
        return (
            f"the last log-SNR is {float(last):.1f}, at which large masks still show through the noise, while sampling starts "
            "from noise alone: set diffusion.ends=zero-terminal, or a lower diffusion.log_snr_min"
        )
    return None


def _check_untrained_levels(diffusion: Diffusion) -> str | None:
    """Check that a profile trains the network at all noise levels that are sampled from."""
    if diffusion.mixing or diffusion.profile_floor:
        return None
    if "fingerprint" in (diffusion.weighting, diffusion.density):
        return (
            "diffusion.fingerprint is nearly 0 where nothing of the mask is lost yet and where everything is, so that the "
            "network is hardly trained there but sampled from: set diffusion.profile_floor or diffusion.mixing above 0"
        )
    if "profile" not in (diffusion.weighting, diffusion.density):
        return None
    t = torch.linspace(0, 1, profile.BINS + 1, dtype=torch.float64)
    share = float((profile.evaluate(log_snr(t, diffusion), diffusion) == 0).double().mean())
    if share > 0.01:
        return (
            f"diffusion.profile is 0 over {share:.0%} of the noise levels, where the network is not trained but sampled from: "
            "set diffusion.profile_floor or diffusion.mixing above 0"
        )
    return None


def _check_long_steps(inference: Inference, diffusion: Diffusion) -> str | None:
    """Check that Heun's method takes short steps between its first and its last one.

    Its correction exaggerates a change of x̂0 by half the factor by which σ/α falls. In the first step, where nothing is decided
    yet, that was seen to do no harm; the last one has none.
    """
    if inference.sampler != "heun" or inference.grid in MEASURED_GRIDS:
        return None
    steps = count_steps("heun", inference.steps or 1)
    times = sampling_times(steps, lambda t: log_snr(t, diffusion), grid=inference.grid, curve=inference.curve)
    levels = log_snr(times, diffusion)
    falls = ((levels[1:] - levels[:-1]) / 2).exp()[1:-1]
    if len(falls) and (longest := float(falls.max())) > LONG:
        return (
            f"inference.sampler=heun with {inference.steps} evaluations on the grid {inference.grid} has steps in which σ/α "
            f"falls to 1/{longest:.3g}, and exaggerates what changes there: take grid uniform, more steps, or sampler dpm-solver++"
        )
    return None
