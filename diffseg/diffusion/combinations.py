"""Combinations of settings that are possible but known to train or sample badly. Impossible ones are refused by `Config`."""

import math

import torch

from diffseg.config import Config, Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.schedules import log_snr
from diffseg.diffusion.weightings import WEIGHTINGS, on_target

MAGNIFIED = -12.0  # λ from which an error in ε is too large in x0; the linear schedule of T = 1000 ends at −10.1
UNEVEN = 1e3  # times that the ε-loss may weigh more at the end than in the middle
VISIBLE = -8.0  # λ at which large masks can still be seen


def warnings(config: Config) -> list[str]:
    """What is known to go wrong with a configuration, a sentence each. E3 and E4 are measured, not sampled from."""
    if config.experiment != "e2":
        return []
    diffusion = config.resolved().diffusion
    middle, last = log_snr(torch.tensor([0.5, 1.0], dtype=torch.float64), diffusion)
    found = [_magnified(diffusion, last), _uneven(diffusion, middle, last), _visible(last), _blind(diffusion)]
    return [sentence for sentence in found if sentence]


def _magnified(diffusion: Diffusion, last: torch.Tensor) -> str | None:
    """x̂0 = (x_t − σ ε̂)/α, and at α = 0 ε says nothing of x0 (Lin et al., 2024, Sec. 3.3)."""
    if diffusion.target == "epsilon" and last < MAGNIFIED:
        return (
            f"diffusion.target=epsilon with a last log-SNR of {float(last):.1f} magnifies the network's error "
            f"{math.exp(-float(last) / 2):,.0f}-fold in the first step of sampling: take target v or x0, or a log_snr_min of "
            f"{MAGNIFIED:g} or more"
        )
    return None


def _uneven(diffusion: Diffusion, middle: torch.Tensor, last: torch.Tensor) -> str | None:
    """Seen to diverge with uniform and truncated-snr (Hang et al., 2023, Fig. 5)."""
    if diffusion.target != "epsilon" or diffusion.weighting not in WEIGHTINGS:
        return None
    of_middle, of_last = (float(on_target(level, diffusion)) for level in (middle, last))
    if of_last > UNEVEN * of_middle:
        return (
            f"diffusion.target=epsilon with weighting {diffusion.weighting} weighs the ε-loss {of_last / of_middle:,.0f} times "
            "more at t = 1 than at t = 0.5, which is known to diverge: take target v or x0, or weighting min-snr"
        )
    return None


def _visible(last: torch.Tensor) -> str | None:
    if last > VISIBLE:
        return (
            f"the last log-SNR is {float(last):.1f}, at which large masks still show through the noise, while sampling starts "
            "from noise alone: set diffusion.ends=zero-terminal, or a lower diffusion.log_snr_min"
        )
    return None


def _blind(diffusion: Diffusion) -> str | None:
    if diffusion.mixing or diffusion.profile_floor:
        return None
    if "fingerprint" in (diffusion.weighting, diffusion.density):
        return (
            "diffusion.fingerprint is nearly 0 where nothing of the mask is lost yet and where everything is, and there the "
            "network is hardly trained but will be sampled from: set diffusion.profile_floor or diffusion.mixing above 0"
        )
    if "profile" not in (diffusion.weighting, diffusion.density):
        return None
    t = torch.linspace(0, 1, profile.BINS + 1, dtype=torch.float64)
    share = float((profile.shaped(log_snr(t, diffusion), diffusion) == 0).double().mean())
    if share > 0.01:
        return (
            f"diffusion.profile is 0 over {share:.0%} of the noise levels, where the network is not trained but will be sampled "
            "from: set diffusion.profile_floor or diffusion.mixing above 0"
        )
    return None
