"""Samplers compared to each other, and to the known probability flow of a Gaussian."""

import itertools

import pytest
import torch

from diffseg.config import Diffusion
from diffseg.config.inference import TWICE
from diffseg.diffusion.early_stopping import EarlyStoppingDenoiser
from diffseg.diffusion.grids import sampling_times
from diffseg.diffusion.samplers import SAMPLERS, count_steps
from diffseg.diffusion.schedules import alpha_sigma, log_snr
from diffseg.diffusion.targets import to_epsilon
from diffseg.randomness import generator


def draws():
    draw = generator("cpu", 1, "noise")
    return lambda: torch.randn(2, 1, 4, 4, generator=draw, dtype=torch.float64)


def start():
    return torch.randn(2, 1, 4, 4, generator=generator("cpu", 0, "start"), dtype=torch.float64)


def level(t):
    return log_snr(t, Diffusion(schedule="cosine", input_scale=0.5))


def uniform(steps):
    return sampling_times(steps, level)


def curved(x_t, t):
    """Return an x̂0 that is neither constant nor linear in x_t."""
    return (x_t * (1 + t)).tanh(), 0.0


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_without_noise_equals_the_published_step(steps):
    x = start()
    for t, s in itertools.pairwise(uniform(steps)):
        x0, _ = curved(x, t)
        if s == 0:
            break
        epsilon = to_epsilon(x0, x, *alpha_sigma(level(t), x))
        alpha_s, sigma_s = alpha_sigma(level(s), x)
        x = alpha_s * x0 + sigma_s * epsilon

    def none():
        raise AssertionError("no noise is drawn")

    assert torch.equal(SAMPLERS["ddim"](curved, start(), uniform(steps), level, none), x0)


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_ddim_with_full_noise_equals_ancestral_with_the_small_variance(steps):
    ddim = SAMPLERS["ddim"](curved, start(), uniform(steps), level, draws(), eta=1.0)
    assert torch.allclose(ddim, SAMPLERS["ancestral"](curved, start(), uniform(steps), level, draws()), atol=1e-10)


@pytest.mark.parametrize(
    ("sampler", "eta"),
    [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), *((name, 0.0) for name in SAMPLERS if name != "ddim")],
)
def test_samplers_keep_the_distribution_of_a_gaussian(sampler, eta):
    """x0 ~ N(0, s²): with its posterior mean, x_t stays N(0, α²s² + σ²) up to the error of the steps."""
    found = []
    denoise = gaussian(0.7, found)
    draw = generator("cpu", 2)
    noise = lambda: torch.randn(1, 1, 200, 200, generator=draw, dtype=torch.float64)  # noqa: E731
    SAMPLERS[sampler](denoise, noise(), uniform(400), straight, noise, eta=eta)
    for t, x in found[::100]:
        alpha, sigma = alpha_sigma(straight(t), x)
        assert float(x.var() / (alpha**2 * 0.49 + sigma**2)) == pytest.approx(1, abs=0.04)


def straight(t):
    """Return λ from 6 to −6, linear in t, so that uniform steps are equal in λ, too."""
    return 6 - 12 * t.double()


def gaussian(deviation, found):
    """Return a denoiser to the posterior mean of x0 ~ N(0, s²), α s² x_t/(α²s² + σ²). It records its inputs in `found`."""

    def denoise(x_t, t):
        found.append((t, x_t))
        alpha, sigma = alpha_sigma(straight(t), x_t)
        return alpha * deviation**2 * x_t / (alpha**2 * deviation**2 + sigma**2), 0.0

    return denoise


def error(name, steps):
    """Return the error of x at t = 1/2. Along the probability flow of the Gaussian, x_t grows as its standard deviation."""
    found, deviation = [], 0.5

    def scale(t):
        alpha, sigma = alpha_sigma(straight(t), start())
        return (alpha**2 * deviation**2 + sigma**2).sqrt()

    SAMPLERS[name](gaussian(deviation, found), start(), uniform(steps), straight, None)
    t, x = found[steps // 2 * (2 if name in TWICE else 1)]
    assert float(t) == pytest.approx(0.5)
    exact = start() * scale(t) / scale(torch.ones(()))
    return float((x - exact).abs().max())


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm-solver++", 2), ("heun", 2), ("flow-heun", 2)])
def test_orders_of_convergence(name, order):
    errors = [error(name, steps) for steps in (40, 80, 160, 320)]
    ratios = torch.tensor(errors[:-1]) / torch.tensor(errors[1:])
    assert torch.allclose(ratios.log2(), torch.tensor(float(order)), atol=0.15)
    assert errors[-1] < {1: 1e-2, 2: 1e-4}[order]


def test_dpm_solver_needs_fewer_steps_than_ddim():
    assert error("dpm-solver++", 40) < 0.2 * error("ddim", 40)


def test_the_first_step_of_dpm_solver_equals_ddims():
    states = {}
    for name in ("ddim", "dpm-solver++"):
        found = []
        SAMPLERS[name](gaussian(0.5, found), start(), uniform(4), straight, None)
        states[name] = [x for _, x in found]
    assert torch.allclose(states["ddim"][1], states["dpm-solver++"][1])
    assert not torch.allclose(states["ddim"][2], states["dpm-solver++"][2])


def test_the_first_step_of_the_sde_solver_equals_ancestral_sampling():
    states = {}
    for name in ("ancestral", "sde-dpm-solver++"):
        found = []
        SAMPLERS[name](gaussian(0.5, found), start(), uniform(4), straight, draws())
        states[name] = [x for _, x in found]
    assert torch.allclose(states["ancestral"][1], states["sde-dpm-solver++"][1])
    assert not torch.allclose(states["ancestral"][2], states["sde-dpm-solver++"][2])


def test_the_sde_solver_needs_fewer_steps_than_ancestral_sampling():
    """The variance of samples of N(0, s²), with the small variance and 24 steps."""
    draw, missed = generator("cpu", 3), {}
    noise = lambda: torch.randn(1, 1, 300, 300, generator=draw, dtype=torch.float64)  # noqa: E731
    for name in ("ancestral", "sde-dpm-solver++"):
        x0 = SAMPLERS[name](gaussian(0.5, []), noise(), uniform(24), straight, noise)
        missed[name] = abs(float(x0.var()) / 0.25 - 1)
    assert missed["sde-dpm-solver++"] < 0.5 * missed["ancestral"]


@pytest.mark.parametrize("name", ["heun", "flow-heun"])
@pytest.mark.parametrize("evaluations", [1, 2, 9, 10])
def test_heun_evaluates_the_network_no_more_often_than_it_may(name, evaluations):
    found = []
    times = uniform(count_steps(name, evaluations))
    SAMPLERS[name](gaussian(0.5, found), start(), times, straight, None)
    assert evaluations - 1 <= len(found) <= evaluations


def test_heun_along_straight_paths_is_exact_for_a_point():
    """All paths of one x0 are straight in flow matching, so that one step is exact at every time."""
    x0, found = torch.full((2, 1, 4, 4), 0.7, dtype=torch.float64), []

    def denoise(x, t):
        found.append((t, x))
        return x0, 0.0

    SAMPLERS["flow-heun"](denoise, start(), uniform(3), straight, None)
    for t, x in found:
        alpha, sigma = alpha_sigma(straight(t), x)
        first_alpha, first_sigma = alpha_sigma(straight(torch.ones(())), x)
        noise = (start() - first_alpha * x0) / first_sigma
        assert torch.allclose(x, alpha * x0 + sigma * noise)


def test_dpm_solver_stays_finite_where_a_schedule_is_flat():
    cauchy = lambda t: log_snr(t, Diffusion(schedule="cauchy"))  # noqa: E731
    assert SAMPLERS["dpm-solver++"](curved, start(), uniform(1000), cauchy, None).isfinite().all()


ONCE = [name for name in SAMPLERS if name not in TWICE]
MASKS = {  # the mask of a sample at each step
    "never": [0, 1, 0, 1, 0, 1, 0, 1],
    "at once": [1, 1, 1, 0, 0, 0, 1, 1],
    "late": [0, 0, 1, 0, 1, 1, 1, 0],
    "almost": [0, 0, 1, 1, 0, 0, 1, 1],
}


@pytest.mark.parametrize("sampler", ONCE)
@pytest.mark.parametrize("share", [1.0, torch.full((len(MASKS), 1, 2, 2), 0.5)])
def test_stopped_samples_keep_their_mask_and_cost_no_more_evaluations(sampler, share):
    wanted, seen = torch.tensor(list(MASKS.values())), []

    def denoise(x_t, t, rows):
        rows = torch.arange(4)[rows]
        step = round(8 * (1 - float(t)))
        seen.append(rows.tolist())
        x0 = (2.0 * wanted[rows, step] - 1).view(-1, 1, 1, 1) * torch.full_like(x_t, 0.5 + 0.05 * step)
        return x0, share if isinstance(share, float) else share[rows]

    x = torch.randn(4, 1, 2, 2)
    denoiser = EarlyStoppingDenoiser(denoise, 2, lambda x0: x0 > 0, x)
    found = SAMPLERS[sampler](denoiser, x, uniform(8), level, lambda: torch.randn(4, 1, 2, 2))
    assert denoiser.evaluations.tolist() == [8, 3, 7, 8]
    assert sum(map(len, seen)) == 26
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.85, 0.6, 0.8, 0.85])


@pytest.mark.parametrize("sampler", ONCE)
def test_a_patience_beyond_all_steps_changes_nothing(sampler):
    def denoise(x_t, t, rows):
        return curved(x_t, t)

    def sample(patience):
        denoiser = EarlyStoppingDenoiser(denoise, patience, lambda x0: x0 > 0, start())
        found = SAMPLERS[sampler](denoiser, start(), uniform(7), level, draws())
        assert denoiser.evaluations.tolist() == [7, 7]
        return found

    assert torch.equal(sample(None), sample(7))
