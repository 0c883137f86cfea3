"""The variational bound that trains a learned variance (Nichol & Dhariwal, 2021, Sec. 3.1; Ho et al., 2020, Eq. 5)."""

import torch

from diffseg.diffusion.grids import LogSNR
from diffseg.diffusion.schedules import alpha_sigma

HALF_BIN = (
    1 / 255
)  # half the distance of the 256 grey levels in [−1, 1], over which the decoder's likelihood is defined


def variational_bound(
    x0: torch.Tensor, predicted: torch.Tensor, share: torch.Tensor, t: torch.Tensor, log_snr: LogSNR, steps: int
) -> torch.Tensor:
    """Return the term of the bound at t, in nats, [B, C, H, W].

    This is KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) with s = t − 1/steps, and −log p(x0 | x_t) where s ≤ 0.

    Args:
        x0: The clean signal, [B, C, H, W].
        predicted: x̂0, [B, C, H, W], detached, since this term does not train it.
        share: The place of p's log variance between the posterior's, β̃_t (0), and β_t (1), [B, C, H, W] (Eq. 15).
        t: The times, [B].
        log_snr: The noise schedule.
        steps: T, the number of steps of the chain.
    """
    s = (t - 1 / steps).clamp(min=0)
    lambda_t, lambda_s = log_snr(t), log_snr(s)
    (alpha_s, _), (_, sigma_t) = alpha_sigma(lambda_s, x0), alpha_sigma(lambda_t, x0)
    c = _like(-torch.expm1(lambda_t - lambda_s), x0)
    large = (c * sigma_t.square()).log()
    small = _posterior_log_variance(t.clamp(min=2 / steps), log_snr, steps, x0)
    log_variance = share * large + (1 - share) * small
    gap = (alpha_s * c * (x0 - predicted)).square()
    kl = 0.5 * (log_variance - small - 1 + (small - log_variance).exp() + gap * (-log_variance).exp())
    likelihood = _discretised_log_likelihood(x0, predicted, 0.5 * log_variance)
    first = (s == 0).view(-1, *[1] * (x0.dim() - 1))
    return torch.where(first, -likelihood, kl)


def _posterior_log_variance(t: torch.Tensor, log_snr: LogSNR, steps: int, like: torch.Tensor) -> torch.Tensor:
    """Return log β̃_t for t ≥ 2/steps.

    At the first step it is −∞, so the caller takes the second step's there, as published.
    """
    lambda_t, lambda_s = log_snr(t), log_snr(t - 1 / steps)
    return (_like(-torch.expm1(lambda_t - lambda_s), like) * alpha_sigma(lambda_s, like)[1].square()).log()


def _discretised_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return the log of the Gaussian's mass on x's grey level (Ho et al., 2020, Eq. 13).

    The outermost levels reach to infinity.
    """
    above, below = (torch.special.ndtr((x - mean + side) * (-log_scale).exp()) for side in (HALF_BIN, -HALF_BIN))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def _like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return values [B] in the dtype and number of dimensions of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)
