"""The diffusion process in continuous log-SNR: schedules, targets, losses, weightings, timestep densities and samplers.

It is variance preserving: x_t = α x0 + σ ε with α² = sigmoid(λ), σ² = sigmoid(−λ) and SNR = e^λ (Kingma et al., 2021,
Eq. 1–4). t runs from 0 (clean) to 1 (noise).
"""
