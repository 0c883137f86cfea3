import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffseg.config import Config, Diffusion
from diffseg.diffusion.densities import round_up_to_chain
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.samplers import SAMPLERS
from diffseg.diffusion.schedules import SCHEDULES, alpha_sigma, log_snr
from diffseg.diffusion.targets import activate, add_noise, scale_input, to_epsilon, to_x0, training_target
from diffseg.diffusion.variational import variational_bound
from diffseg.diffusion.weightings import TARGET_ERROR_IN_X0
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels
from diffseg.randomness import generator


@pytest.mark.parametrize("steps", [25, 100, 1000, 4000])
def test_the_linear_schedule_equals_the_discrete_one_at_its_points(steps):
    betas = np.linspace(0.1 / steps, 20 / steps, steps)
    published = np.cumprod(1 - betas)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    ours = torch.sigmoid(SCHEDULES["linear"](t, Diffusion(steps=steps))).numpy()
    assert np.abs(ours - published).max() < 1e-6
    if steps in (100, 1000):  # facts of the published chains
        assert ours[-1] == pytest.approx({1000: 4.036e-5, 100: 2.04e-5}[steps], rel=2e-3)


def test_the_cosine_schedule_equals_its_closed_form():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(
        torch.sigmoid(SCHEDULES["cosine"](t, Diffusion())), torch.cos(math.pi * t / 2) ** 2, atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_and_stay_within_the_limit(schedule):
    grid = (
        torch.cat([torch.logspace(-12, -5, 40, dtype=torch.float64), torch.linspace(0, 1, 2001, dtype=torch.float64)])
        .sort()
        .values
    )
    levels = log_snr(grid, Diffusion(schedule=schedule))
    assert torch.isfinite(levels).all()
    assert levels.abs().max() <= 20
    assert (levels.diff() <= 0).all()
    assert (levels[(grid >= 1e-4) & (levels.abs() < 19.9)].diff() < 0).all()  # cauchy's tails reach the limits early
    assert float(levels[0]) == pytest.approx(9.21 if schedule == "linear-continuous" else 20, abs=1e-3)


@given(scale=st.floats(0.03, 2), t=st.floats(0.02, 0.98))
def test_input_scaling_equals_scaling_the_input(scale, t):
    """b·x0 in place of x0, divided by the standard deviation: γ' = b²γ / ((b² − 1)γ + 1) (Christensen et al., 2025)."""
    t = torch.tensor(t, dtype=torch.float64)
    gamma = torch.sigmoid(SCHEDULES["cosine"](t, Diffusion()))
    expected = scale**2 * gamma / ((scale**2 - 1) * gamma + 1)
    ours = torch.sigmoid(log_snr(t, Diffusion(schedule="cosine", input_scale=scale)))
    assert float(ours) == pytest.approx(float(expected), abs=1e-8)


@given(st.floats(-12, 12), st.floats(-1, 1), st.floats(-3, 3))
def test_conversions_invert_each_other(level, x0, noise):
    x0, noise = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (x0, noise))
    alpha, sigma = alpha_sigma(torch.tensor([level]), x0)
    assert float(alpha**2 + sigma**2) == pytest.approx(1)
    x_t = add_noise(x0, noise, alpha, sigma)
    for name in TARGET_ERROR_IN_X0:
        diffusion = Diffusion(target=name)
        recovered = to_x0(training_target(x0, noise, alpha, sigma, diffusion), x_t, alpha, sigma, diffusion)
        assert torch.allclose(recovered, x0, atol=1e-9 * math.exp(6))
    assert torch.allclose(to_epsilon(x0, x_t, alpha, sigma), noise, atol=1e-9 * math.exp(6))


def test_noisy_signals_have_the_moments_of_q():
    draw = generator("cpu", 0, "moments")
    x0, level = torch.full((200_000, 1, 1, 1), 0.7), torch.tensor([-0.8])
    alpha, sigma = alpha_sigma(level, x0)
    x_t = add_noise(x0, torch.randn(x0.shape, generator=draw), alpha, sigma)
    assert float(x_t.mean()) == pytest.approx(float(alpha) * 0.7, abs=4 * float(sigma) / 200_000**0.5)
    assert float(x_t.var()) == pytest.approx(float(sigma) ** 2, rel=0.02)


@pytest.mark.parametrize("coding", RANGES)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_stay_in_the_range_of_the_coding(coding, activation):
    config = Config(diffusion=Diffusion(target="x0", activation=activation, coding=coding))
    low, high = RANGES[coding]
    outputs = activate(torch.linspace(-50, 50, 101).view(1, 1, 1, -1), config.diffusion, Labels.of(config)).flatten()
    assert float(outputs.min()) == pytest.approx(low)
    assert float(outputs.max()) == pytest.approx(high)
    assert float(outputs[50]) == pytest.approx((low + high) / 2)


def sampled(name, steps, denoise, start, diffusion):
    draw = generator("cpu", 1, "noise")
    level = lambda t: log_snr(t, diffusion)  # noqa: E731
    return SAMPLERS[name](
        denoise,
        start,
        sampling_times(steps, level),
        level,
        lambda: torch.randn(start.shape, generator=draw, dtype=start.dtype),
    )


@pytest.mark.sampled(53)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_samplers_with_a_perfect_epsilon_reach_x0(name, schedule, steps):
    diffusion = Diffusion(schedule=schedule, target="epsilon", steps=100)
    draw = generator("cpu", 0, "oracle")
    x0 = torch.where(torch.rand(2, 1, 8, 8, generator=draw) < 0.5, -1.0, 1.0).double()

    def oracle(x_t, t):
        scales = alpha_sigma(log_snr(t, diffusion), x_t)
        return to_x0(to_epsilon(x0, x_t, *scales), x_t, *scales, diffusion), 0.0

    start = torch.randn(x0.shape, generator=draw, dtype=torch.float64)
    assert torch.allclose(sampled(name, steps, oracle, start, diffusion), x0, atol=1e-6)


def test_ddim_with_few_steps_equals_all_steps_for_a_linear_denoiser():
    """For Gaussian data x0 ~ N(0, 1) the ideal denoiser is x̂0 = α x_t, and the flow's exact solution keeps x."""
    diffusion = Diffusion(steps=1000)

    def ideal(x_t, t):
        return alpha_sigma(log_snr(t, diffusion), x_t)[0] * x_t, 0.0

    start = torch.randn(1, 1, 8, 8, generator=generator("cpu", 3), dtype=torch.float64)
    full, few = (sampled("ddim", steps, ideal, start, diffusion) for steps in (1000, 250))
    assert torch.allclose(full, start, atol=0.02 * float(start.abs().max()))
    assert torch.allclose(full, few, atol=0.06 * float(start.abs().max()))


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3])
def test_ancestral_sampling_with_all_steps_equals_the_published_chain(share):
    """Single steps equal Ho et al.'s posterior in the discrete β's, at several points of the chain."""
    steps = 100
    betas = np.linspace(0.1 / steps, 20 / steps, steps)
    bars = np.concatenate([[1.0], np.cumprod(1 - betas)])
    diffusion = Diffusion(steps=steps)
    x_t, x0, z = (torch.randn(1, 1, 4, 4, generator=generator("cpu", k), dtype=torch.float64) for k in range(3))
    states = []

    def denoise(x, t):
        states.append(x)
        return x0, share

    level = lambda t: log_snr(t, diffusion)  # noqa: E731
    SAMPLERS["ancestral"](denoise, x_t, sampling_times(steps, level), level, lambda: z)
    for i in (steps, steps - 1, 50, 2):  # from state i to i − 1
        now, following = states[steps - i], states[steps - i + 1]
        beta, bar, before = betas[i - 1], bars[i], bars[i - 1]
        mean = math.sqrt(before) * beta / (1 - bar) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - bar) * now
        sigma = math.sqrt(beta**share * (beta * (1 - before) / (1 - bar)) ** (1 - share))
        assert torch.allclose(following, mean + sigma * z, atol=1e-6)


def test_discrete_timesteps_are_the_points_of_the_chain_and_uniform():
    t = torch.rand(100_000, generator=generator("cpu", 0), dtype=torch.float64)
    points, counts = (round_up_to_chain(t, 25) * 25).unique(return_counts=True)
    assert torch.allclose(points, torch.arange(1, 26, dtype=torch.float64))
    assert counts.float().std() < 5 * 4000**0.5
    assert round_up_to_chain(torch.tensor([0.0, 1.0], dtype=torch.float64), 25).tolist() == [1 / 25, 1.0]


class TestVariationalBound:
    """It equals Nichol & Dhariwal's terms, written in the β's of the discrete chain."""

    T = 100
    BETAS = np.linspace(0.1 / T, 20 / T, T)
    BARS = np.concatenate([[1.0], np.cumprod(1 - BETAS)])

    def bound(self, x0, predicted, share, i):
        t = torch.full((len(x0),), i / self.T, dtype=torch.float64)
        terms = variational_bound(x0, predicted, share, t, lambda t: log_snr(t, Diffusion(steps=self.T)), self.T)
        return terms.flatten(1).mean(1) / math.log(2)  # in bits per dimension

    def log_variances(self, i):
        posterior = [self.BETAS[k] * (1 - self.BARS[k]) / (1 - self.BARS[k + 1]) for k in range(self.T)]
        posterior[0] = posterior[1]
        return math.log(posterior[i - 1]), math.log(self.BETAS[i - 1])

    @pytest.mark.parametrize("i", [2, 3, 50, 100])
    def test_inner_steps_are_the_divergence_of_two_gaussians(self, i):
        x0, predicted, share = (torch.rand(3, 1, 4, 4, generator=generator("cpu", k)).double() for k in range(3))
        small, large = self.log_variances(i)
        coefficient = math.sqrt(self.BARS[i - 1]) * self.BETAS[i - 1] / (1 - self.BARS[i])
        p = torch.distributions.Normal(coefficient * predicted, (0.5 * (share * large + (1 - share) * small)).exp())
        q = torch.distributions.Normal(coefficient * x0, torch.full_like(x0, math.exp(0.5 * small)))
        expected = torch.distributions.kl_divergence(q, p).flatten(1).mean(1) / math.log(2)
        assert torch.allclose(self.bound(x0, predicted, share, i), expected, rtol=1e-3)

    def test_the_first_step_is_the_likelihood_of_the_grey_level(self):
        levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
        predicted, share = torch.full((256, 1, 1, 1), 0.2).double(), torch.full((256, 1, 1, 1), 0.4).double()
        bits = self.bound(levels.view(-1, 1, 1, 1), predicted, share, 1)
        small, large = self.log_variances(1)
        normal = torch.distributions.Normal(0.2, math.exp(0.5 * (0.4 * large + 0.6 * small)))
        expected = (normal.cdf(levels + 1 / 255) - normal.cdf(levels - 1 / 255)).clamp(min=1e-12)
        assert torch.allclose(2 ** -bits[1:-1], expected[1:-1], rtol=1e-3, atol=1e-9)
        assert float((2**-bits).sum()) == pytest.approx(1, abs=1e-6)  # all grey levels together

    def test_the_best_share_is_found_and_the_prediction_is_not_trained(self):
        x0 = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        shares = torch.linspace(0, 1, 11, dtype=torch.float64)
        losses = [float(self.bound(x0, x0, share.view(1, 1, 1, 1), 50)) for share in shares]
        assert losses[0] == pytest.approx(0, abs=1e-9)
        assert losses == sorted(losses)


def test_the_schedule_and_weight_equal_those_published_for_ambdiff(reference):
    stored = np.load(reference / "ambdiff.npz")
    t = torch.from_numpy(stored["schedule_t"])
    level = log_snr(t, Diffusion(schedule="cosine", input_scale=0.1))
    assert np.abs(torch.sigmoid(level).numpy() - stored["schedule_gamma"]).max() < 1e-8
    assert np.abs(level.numpy() - stored["schedule_log_snr"]).max() < 1e-6
    assert np.abs((level.exp() + 1).numpy() / stored["schedule_weight"] - 1).max() < 1e-6


@pytest.mark.parametrize("name", TARGET_ERROR_IN_X0)
@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_the_best_prediction_of_every_target_leads_to_the_posterior_mean(name, deviation):
    """x0 ~ N(0, s²): E[x0 | x_t] = α s² x_t/(α² s² + σ²). All targets are linear in x0 and ε, and their errors scale as stated."""
    diffusion = Diffusion(target=name, sigma_data=deviation)
    levels = torch.linspace(-10, 10, 21, dtype=torch.float64)
    x_t = torch.linspace(-3, 3, 21, dtype=torch.float64).view(-1, 1, 1, 1)
    alpha, sigma = alpha_sigma(levels, x_t)
    x0 = alpha * deviation**2 * x_t / (alpha**2 * deviation**2 + sigma**2)
    best = training_target(x0, to_epsilon(x0, x_t, alpha, sigma), alpha, sigma, diffusion)
    assert torch.allclose(to_x0(best, x_t, alpha, sigma, diffusion), x0)
    off = to_x0(best + 0.01, x_t, alpha, sigma, diffusion) - x0
    ratio = TARGET_ERROR_IN_X0[name](levels, diffusion).view(-1, 1, 1, 1)
    assert torch.allclose(off.square() * ratio, torch.full_like(off, 1e-4))


def test_edms_preconditioning_keeps_input_and_target_at_unit_variance():
    """Karras et al., 2022, App. B.6: with x0 ~ N(0, σ_data²), at every noise level."""
    diffusion, draw = Diffusion(target="edm", sigma_data=0.5), generator("cpu", 0, "edm")
    shape = (50_000, 1, 1, 1)
    x0, noise = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    for level in (-8.0, -1.0, 0.0, 3.0, 9.0):
        scales = alpha_sigma(torch.full((1,), level), noise)
        x_t = add_noise(0.5 * x0, noise, *scales)
        assert float(scale_input(x_t, *scales, diffusion).std()) == pytest.approx(1, abs=0.02)
        assert float(training_target(0.5 * x0, noise, *scales, diffusion).std()) == pytest.approx(1, abs=0.02)


def test_with_unit_variance_edms_target_is_minus_v():
    level = torch.linspace(-6, 6, 5, dtype=torch.float64)
    x0, noise = torch.randn(2, 5, 1, 2, 2, generator=generator("cpu", 0), dtype=torch.float64)
    scales = alpha_sigma(level, x0)
    edm, v = (training_target(x0, noise, *scales, Diffusion(target=name, sigma_data=1.0)) for name in ("edm", "v"))
    assert torch.allclose(edm, -v)


def test_the_flow_schedule_is_the_straight_path():
    """x_t (α + σ)⁻¹ = (1 − t) x0 + t ε."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr(t, Diffusion(schedule="flow")), t.view(-1, 1, 1, 1))
    assert torch.allclose((sigma / (alpha + sigma)).flatten(), t)
