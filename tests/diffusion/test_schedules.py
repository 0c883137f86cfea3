"""Noise schedules: closed forms, distributions of λ under uniform t, ends and slopes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffseg.config import Config, Diffusion
from diffseg.diffusion.schedules import SCHEDULES, log_snr, slope
from diffseg.errors import ConfigError

QUANTILES = {  # of λ under uniform t: 5, 25, 50, 75, 95 %; computed independently of this code
    "linear": (-9.1, -5.7, -2.5, 0.09, 3.5),
    "cosine": (-5.1, -1.8, 0, 1.8, 5.1),
    "sigmoid": (-4.0, -1.7, 0, 1.7, 4.0),
    "simple-linear": (-2.9, -1.1, 0, 1.1, 2.9),
    "laplace": (-1.15, -0.35, 0, 0.35, 1.15),
    "edm": (-1.6, 0.8, 2.4, 4.0, 6.3),
    "logit-normal": (-3.3, -1.3, 0, 1.3, 3.3),
}
INNER = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
CLOSED = {  # ᾱ(t) of the published formulas
    "linear-continuous": lambda t: 1 / np.exp(1e-4 + 10 * t**2),
    "simple-linear": lambda t: 1 - t,
    "shifted-cosine": lambda t: 1 / (1 + (np.tan(np.pi * t / 2) * 256 / 64) ** 2),
}


@pytest.mark.parametrize(("schedule", "expected"), QUANTILES.items())
def test_quantiles_of_the_log_snr(schedule, expected):
    levels = log_snr(torch.tensor([0.95, 0.75, 0.5, 0.25, 0.05], dtype=torch.float64), Diffusion(schedule=schedule))
    assert levels.tolist() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(("schedule", "formula"), CLOSED.items())
def test_closed_forms(schedule, formula):
    ours = torch.sigmoid(SCHEDULES[schedule](INNER, Diffusion(schedule=schedule)))
    assert np.allclose(ours.numpy(), formula(INNER.numpy()), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 0.9, 1.0, 3.0])
def test_the_sigmoid_schedule_equals_the_published_one_in_alpha_bar(temperature):
    def falling(x):
        return 1 / (1 + np.exp(-x / temperature))

    t = INNER.numpy()
    expected = (falling(3) - falling(6 * t - 3)) / (falling(3) - falling(-3))
    ours = torch.sigmoid(log_snr(INNER, Diffusion(schedule="sigmoid", temperature=temperature)))
    assert np.allclose(ours.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("location", [-2.0, 0.7])
@pytest.mark.parametrize("spread", [0.3, 1.7])
@pytest.mark.parametrize(
    ("schedule", "distribution"),
    [
        ("laplace", lambda location, spread: stats.laplace(location, spread)),
        ("cauchy", lambda location, spread: stats.cauchy(location, spread)),
        ("edm", lambda location, spread: stats.norm(-2 * location, 2 * spread)),
        ("logit-normal", lambda location, spread: stats.norm(-2 * location, 2 * spread)),
    ],
)
def test_uniform_t_gives_the_named_distribution(schedule, distribution, location, spread):
    levels = SCHEDULES[schedule](INNER, Diffusion(schedule=schedule, location=location, spread=spread))
    assert np.allclose(distribution(location, spread).sf(levels.numpy()), INNER.numpy(), atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(scale=st.floats(0.03, 2))
def test_input_scaling_shifts_every_schedule(schedule, scale):
    plain, scaled = (log_snr(INNER, Diffusion(schedule=schedule, input_scale=b)) for b in (1.0, scale))
    inside = (plain.abs() < 9) & (scaled.abs() < 9)
    assert torch.allclose((scaled - plain)[inside], torch.tensor(2 * math.log(scale)).double(), atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize(("most", "least"), [(20.0, -20.0), (9.0, -15.0), (6.0, -6.0), (20.0, -60.0)])
@pytest.mark.parametrize("ends", ["exact", "zero-terminal"])
def test_any_final_noise_level_is_met(schedule, scale, most, least, ends):
    diffusion = Diffusion(schedule=schedule, input_scale=scale, log_snr_max=most, log_snr_min=least, ends=ends)
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    levels = log_snr(grid, diffusion)
    assert float(levels[-1]) == pytest.approx(least, abs=1e-3)
    assert (levels.diff() <= 1e-9).all()
    assert levels.max() <= most + 1e-9
    if ends == "exact":
        assert float(levels[0]) == pytest.approx(most, abs=1e-3)
    else:
        limited = log_snr(grid[:1], diffusion.model_copy(update={"ends": "limited"}))
        assert float(levels[0]) == pytest.approx(float(limited), abs=1e-6)


def test_zero_terminal_equals_the_published_algorithm():
    """Lin et al., 2024, Algorithm 1, on the discrete chain. It keeps α of the first step, ours α at t = 0."""
    steps = 1000
    alphas = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, steps)))
    expected = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    ours = torch.sigmoid(log_snr(t, Diffusion(ends="zero-terminal", log_snr_min=-60.0))).sqrt()
    assert np.abs(ours.numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("ends", ["limited", "zero-terminal"])
def test_slopes_equal_finite_differences(schedule, ends):
    diffusion, h = Diffusion(schedule=schedule, ends=ends, input_scale=0.5), 1e-4
    t = INNER[::8]
    expected = (log_snr(t - h, diffusion) - log_snr(t + h, diffusion)) / (2 * h)
    with torch.inference_mode():
        found = slope(t, diffusion)
    assert torch.allclose(found, expected, rtol=1e-3)
    assert slope(torch.tensor([0.0, 1.0], dtype=torch.float64), diffusion).isfinite().all()


def test_settings_default_to_the_published_ones_and_are_dropped_where_unused():
    config = Config().with_leaves({"diffusion.schedule": "edm", "diffusion.temperature": 0.5}).resolved()
    assert (config.diffusion.location, config.diffusion.spread, config.diffusion.temperature) == (-1.2, 1.2, 1.0)
    given = Config().with_leaves({"diffusion.schedule": "edm", "diffusion.location": -1.2}).resolved()
    assert given.digest == config.digest
    assert Config().with_leaves({"diffusion.spread": 2.0}).resolved() == Config().resolved()


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"diffusion: log_snr_min is 5, but it must be below log_snr_max, 3$"):
        Config().with_leaves({"diffusion.log_snr_min": 5.0, "diffusion.log_snr_max": 3.0})
