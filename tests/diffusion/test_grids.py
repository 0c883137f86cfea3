"""Sampling grids: contracts of all, closed forms, and the least loss of discretisation."""

import itertools

import numpy as np
import pytest
import torch

from diffseg.config import Diffusion
from diffseg.diffusion.grids import GRIDS, SIGMA_MIN, find_times, sampling_times
from diffseg.diffusion.schedules import INSIDE, SCHEDULES, log_snr
from diffseg.errors import ConfigError

CURVE = ((-12.0, 0.0), (-6.0, 1.0), (-1.0, 0.4), (4.0, 0.0))
ERRORS = ((-20.0, 1.0), (-8.0, 0.9), (-2.0, 0.2), (4.0, 0.01), (20.0, 0.0))


def level(**settings):
    diffusion = Diffusion(**({"schedule": "cosine", "input_scale": 0.3} | settings))
    return lambda t: log_snr(t, diffusion)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_grids_fall_from_noise_to_clean(grid, schedule, steps):
    times = sampling_times(steps, level(schedule=schedule), grid=grid, curve=ERRORS if grid == "least-kl" else CURVE)
    assert times.dtype == torch.float64
    assert (times[0], times[-1], len(times)) == (1, 0, steps + 1)
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_of_log_snrs_are_found(schedule):
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    found = find_times(level(schedule=schedule)(t), level(schedule=schedule))
    assert torch.allclose(level(schedule=schedule)(found), level(schedule=schedule)(t), atol=1e-9)


def test_the_uniform_grid_is_equally_spaced_in_t():
    assert sampling_times(4, level()).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_the_log_snr_grid_is_equally_spaced_in_the_log_snr():
    found = level()(sampling_times(12, level(), grid="log-snr"))[1:-1]
    ends = level()(torch.tensor([1 - INSIDE, INSIDE], dtype=torch.float64)).tolist()
    assert found.tolist() == pytest.approx(np.linspace(*ends, 13)[1:-1].tolist(), abs=1e-6)


def test_the_edm_grid_equals_the_published_one():
    """Karras et al., 2022, Eq. 5, from this schedule's σ/α at t = 1 to 0.002."""
    found = torch.exp(-level()(sampling_times(10, level(), grid="edm")) / 2)
    most = float(found[0])
    i = np.arange(10)
    published = (most ** (1 / 7) + i / 9 * (SIGMA_MIN ** (1 / 7) - most ** (1 / 7))) ** 7
    assert found[:10].tolist() == pytest.approx(published.tolist(), rel=1e-6)


@pytest.mark.parametrize("grid", ["curve", "entropic"])
@pytest.mark.parametrize("steps", [2, 10, 64])
def test_every_step_has_an_equal_share_of_the_curve(grid, steps):
    levels = level()(sampling_times(steps, level(), grid=grid, curve=CURVE)).numpy()
    fine = np.linspace(-20, 20, 400_001)
    area = np.cumsum(np.interp(fine, *np.array(CURVE).T))
    shares = np.diff(np.interp(levels, fine, area / area[-1]))
    assert shares == pytest.approx(np.full(steps, 1 / steps), abs=2e-3)


def test_a_curve_beyond_the_schedule_gives_equal_steps_of_the_log_snr():
    narrow = level(log_snr_min=-6.0)
    beyond = ((-14.0, 0.0), (-10.0, 1.0), (-8.0, 0.0))
    assert torch.equal(sampling_times(5, narrow, grid="curve", curve=beyond), sampling_times(5, narrow, grid="log-snr"))


def loss(levels):
    """Return the loss of discretisation of the steps between rising log-SNRs, by a fine integral."""
    total = 0.0
    for now, after in itertools.pairwise(levels):
        fine = np.linspace(now, after, 4001)
        error = np.interp(fine, *np.array(ERRORS).T)
        total += 0.5 * np.trapezoid(np.exp(fine) * (error[0] - error), fine)
    return total


def test_the_grid_of_least_kl_loses_least():
    """No single time can be moved for less loss, and every other grid loses more."""
    narrow = level(log_snr_min=-12.0, log_snr_max=8.0)
    levels = narrow(sampling_times(6, narrow, grid="least-kl", curve=ERRORS)).numpy()
    best = loss(levels)
    for i in range(1, 6):
        for move in (-0.2, 0.2):
            assert loss([*levels[:i], levels[i] + move, *levels[i + 1 :]]) > best * 0.9999
    for grid in ("uniform", "log-snr", "edm"):
        assert loss(narrow(sampling_times(6, narrow, grid=grid)).numpy()) > 1.2 * best


def test_ideal_estimates_move_by_the_difference_of_their_errors():
    """A pixel of ±1, seen with less noise: E(x̂0(λ) − x̂0(λ_t))² = mmse(λ_t) − mmse(λ), from which the loss follows."""
    draw = np.random.default_rng(0)
    x0 = draw.choice([-1.0, 1.0], 1_000_000)
    noisier, fresh = draw.standard_normal((2, len(x0)))
    for snr, more in ((0.3, 0.5), (1.0, 1.0), (2.0, 8.0)):
        seen = snr * x0 + np.sqrt(snr) * noisier  # Brownian motion with drift x0, at time SNR
        later = seen + more * x0 + np.sqrt(more) * fresh
        before, after = np.tanh(seen), np.tanh(later)
        moved = np.square(after - before).mean()
        assert moved == pytest.approx(np.square(x0 - before).mean() - np.square(x0 - after).mean(), abs=3e-3)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"inference__grid": "curve"}, "two or more knots"),
        ({"inference__grid": "curve", "inference__curve": [[1.0, 1.0], [0.0, 1.0]]}, "must rise in log-SNR"),
        ({"inference__grid": "curve", "inference__curve": [[0.0, 0.0], [1.0, 0.0]]}, "above 0"),
        ({"inference__sampler": "heun", "inference__settled": 2}, "two a step"),
        ({"inference__grid": "least-kl", "inference__steps": 201}, "at most 200 steps"),
        ({"inference__grid": "least-kl", "inference__steps": None, "diffusion__target": "v"}, "at most 200 steps"),
    ],
)
def test_grids_that_cannot_be_are_refused(leaves, words, tiny):
    with pytest.raises(ConfigError, match=words):
        tiny(**leaves)
