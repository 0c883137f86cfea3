"""The effective weight of a noise level: what schedule, input scale, target, weighting and density come to together."""

import torch

from diffseg.config import Diffusion
from diffseg.diffusion.densities import density
from diffseg.diffusion.schedules import log_snr, slope
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.weightings import OWN, snr, target_weight
from diffseg.errors import UserError


def effective_weight(
    t: torch.Tensor, diffusion: Diffusion, uncertainty: Uncertainty | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(λ, W) at timesteps t [N], float64, such that the loss is ∫ W(λ) E‖ε − ε̂‖² dλ (Kingma & Gao, 2023).

    W(λ) = w_ε(λ) p(λ), the weight on ε's error times the density of λ in training. Two configurations of one W differ in
    the variance of their gradients only. W is infinite where a schedule stands still, at an end of it. uncertainty: what
    weighting "learned" has learnt.
    Raises UserError for weighting "learned" without it, and for a fingerprint, which is a profile only once it is measured.
    """
    if "fingerprint" in (diffusion.weighting, diffusion.density):
        raise UserError(
            "a fingerprint has no effective weight before it is measured: take the ledger's, or give its profile"
        )
    level = log_snr(t, diffusion)
    weight = target_weight(t, diffusion)
    if diffusion.weighting == "learned":
        if uncertainty is None:
            raise UserError(
                "weighting learned has no effective weight before it is trained: give the network's uncertainty"
            )
        weight = (-uncertainty(level).double()).exp()
    on_epsilon = OWN[diffusion.target](level, diffusion) / snr(level, diffusion)
    of_level = density(t, diffusion) / slope(t, diffusion)
    return level, (1 if weight is None else weight) * on_epsilon * of_level
