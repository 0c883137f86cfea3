"""The learned loss weighting of EDM2: noise levels with a larger expected loss weigh less."""

import torch
from torch import nn

CHANNELS = 128


class Uncertainty(nn.Module):
    """u(λ), the log of the expected loss at λ, linear in random Fourier features (Karras et al., 2024, Eq. 14–16).

    Minimising loss/e^u + u makes e^u the mean loss at λ, so that all noise levels weigh alike. u starts at 0.
    """

    frequencies: torch.Tensor
    phases: torch.Tensor

    def __init__(self) -> None:
        """Draw the frequencies and phases from torch's global generator."""
        super().__init__()
        self.register_buffer("frequencies", 2 * torch.pi * torch.randn(CHANNELS))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(CHANNELS))
        self.linear = nn.Linear(CHANNELS, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        """Return u [B] at log-SNRs [B], in float32 also under autocast."""
        noise = -level.float() / 8  # EDM's c_noise, ln(σ)/4
        with torch.autocast(level.device.type, enabled=False):
            features = 2**0.5 * (noise[:, None] * self.frequencies + self.phases).cos()
            logarithms: torch.Tensor = self.linear(features)
            return logarithms[:, 0]
