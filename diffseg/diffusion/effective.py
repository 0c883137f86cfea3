"""The effective weight of a noise level: schedule, input scale, target, weighting and density taken together."""

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.densities import timestep_density
from diffseg.diffusion.level_errors import OnlineCurve
from diffseg.diffusion.schedules import log_snr, slope
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.weightings import TARGET_ERROR_IN_X0, snr, target_weight
from diffseg.errors import UserError


def effective_weight(
    t: torch.Tensor,
    diffusion: Diffusion,
    uncertainty: Uncertainty | None = None,
    online: OnlineCurve | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (λ, W) at timesteps t [N], float64, such that the loss is ∫ W(λ) E‖ε − ε̂‖² dλ (Kingma & Gao, 2023).

    W(λ) = w_ε(λ) p(λ), the weight on ε's error times the density of λ in training. Two configurations with the same W
    differ only in the variance of their gradients. W is infinite where a schedule is flat, at one of its ends.

    Args:
        t: Timesteps, [N].
        diffusion: The configuration.
        uncertainty: The trained uncertainty of weighting "learned".
        online: The trained curve of weighting or density "online".

    Raises:
        UserError: What a weighting or density learns is not given, or a fingerprint is not measured yet.
    """
    if "fingerprint" in (diffusion.weighting, diffusion.density):
        raise UserError(
            "a fingerprint has no effective weight before it is measured: use the one in the ledger, or set diffusion.profile"
        )
    if "online" in (diffusion.weighting, diffusion.density) and online is None:
        raise UserError(
            "an online curve has no effective weight before it is trained: pass the trained network's curve"
        )
    level = log_snr(t, diffusion)
    weight = target_weight(t, diffusion, online.weight(t, diffusion) if online else None)
    if diffusion.weighting == "learned":
        if uncertainty is None:
            raise UserError(
                "weighting learned has no effective weight before it is trained: pass the trained network's uncertainty"
            )
        weight = (-uncertainty(level).double()).exp()
    on_epsilon = TARGET_ERROR_IN_X0[diffusion.target](level, diffusion) / snr(level, diffusion)
    of_level = timestep_density(t, diffusion, online.probabilities if online else None) / slope(t, diffusion)
    return level, (1 if weight is None else weight) * on_epsilon * of_level
