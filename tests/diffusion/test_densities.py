"""Densities of the training timesteps: strata, inverse distributions, unbiased estimates, adaptation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffseg.config import Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.densities import (
    AdaptiveDensity,
    invert_distribution,
    sample_independent,
    sample_stratified,
    sample_timesteps,
)
from diffseg.randomness import generator

PROFILE = ((-12.0, 0.0), (-4.0, 2.0), (0.0, 1.0), (6.0, 0.0))
DENSITIES = ("uniform", "independent", "adaptive", "profile")


def of(name, **more):
    return Diffusion(density=name, profile=PROFILE, schedule="cosine", **more)


def adapted():
    """Return an adaptive density whose losses have been 4 t."""
    adaptive = AdaptiveDensity()
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    adaptive.update(t, 4 * t, decay=0.0)
    return adaptive


def drawn(diffusion, count, seed=0):
    learned = adapted().bin_probabilities(diffusion.mixing) if diffusion.density == "adaptive" else None
    return sample_timesteps(count, diffusion, generator("cpu", seed), learned)


def test_every_density_is_tested():
    """A fingerprint is a profile once it is measured, and an online curve is tested in test_level_errors.py."""
    assert set(Diffusion.model_fields["density"].annotation.__args__) == {*DENSITIES, "fingerprint", "online"}


@settings(max_examples=20)
@given(count=st.integers(1, 64), seed=st.integers(0, 2**31 - 1))
def test_each_of_equal_intervals_holds_one_uniform_timestep(count, seed):
    t = sample_stratified(count, generator("cpu", seed))
    assert t.shape == (count,)
    assert ((t >= 0) & (t <= 1)).all()
    assert sorted((t * count).long().clamp(max=count - 1).tolist()) == list(range(count))


@pytest.mark.parametrize("name", ["adaptive", "profile"])
@settings(max_examples=20)
@given(count=st.integers(1, 64), seed=st.integers(0, 2**31 - 1))
def test_each_interval_of_equal_probability_holds_one_timestep(name, count, seed):
    t, _ = drawn(of(name), count, seed)
    masses = (
        adapted().bin_probabilities(0.0)
        if name == "adaptive"
        else profile.bin_probabilities(of(name), torch.device("cpu"))
    )
    below = torch.cat([torch.zeros(1, dtype=torch.float64), masses.cumsum(0)])
    place = (t * len(masses)).clamp(max=len(masses) - 1e-9)
    u = below[place.long()] + masses[place.long()] * (place - place.long())
    inside = u * count
    assert ((sorted_ := inside.sort().values) >= torch.arange(count) - 1e-6).all()
    assert (sorted_ <= torch.arange(1, count + 1) + 1e-6).all()


def test_independent_timesteps_are_uniform_and_clump():
    t = sample_independent(100_000, generator("cpu", 0))
    counts = torch.histc(t, 100, 0, 1)
    assert 0.7 < float(counts.var()) / 1000 < 1.4  # Poisson; stratified ones would have almost no variance


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_dividing_by_the_density_keeps_means(name, mixing):
    diffusion = of(
        name, mixing=0.3 if name == "profile" else mixing
    )  # where the profile is 0, nothing could be divided
    t, p = drawn(diffusion, 20_000)
    values = t.square() + (9 * t).sin()
    mean = float((values if p is None else values / p).mean())
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert mean == pytest.approx(float((grid.square() + (9 * grid).sin()).mean()), abs=0.02)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=50).filter(lambda masses: sum(masses) > 0.1))
def test_the_inverse_of_a_distribution(masses):
    masses = torch.tensor(masses, dtype=torch.float64)
    masses = masses / masses.sum()
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    t, p = invert_distribution(masses, u)
    assert ((t >= 0) & (t <= 1)).all()
    assert (t.diff() >= -1e-12).all()
    assert (p > 0).all()  # no timestep where the density is 0
    found = torch.histc((t * len(masses)).clamp(max=len(masses) - 1e-6), len(masses), 0, len(masses)) / 5000
    assert torch.allclose(found, masses, atol=2.1 / 5000)


def test_an_adaptive_density_follows_the_losses_of_its_bins():
    adaptive = adapted()
    middles = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    assert torch.allclose(adaptive.average, 4 * middles)
    assert torch.allclose(adaptive.bin_probabilities(0.0), middles / middles.sum())
    assert torch.allclose(adaptive.bin_probabilities(1.0), torch.full((100,), 0.01, dtype=torch.float64))
    adaptive.update(torch.tensor([0.001, 0.002, 0.999]), torch.tensor([3.0, 5.0, 8.0]), decay=0.75)
    assert float(adaptive.average[0]) == pytest.approx(0.75 * 0.02 + 0.25 * 4)
    assert float(adaptive.average[99]) == pytest.approx(0.75 * 3.98 + 0.25 * 8)
    assert torch.equal(adaptive.average[1:99], adapted().average[1:99])


def test_importance_sampling_in_proportion_to_the_loss_has_no_variance():
    adaptive = adapted()
    t, p = sample_timesteps(64, of("adaptive"), generator("cpu", 0), adaptive.bin_probabilities(0.0))
    t, p = invert_distribution(adaptive.bin_probabilities(0.0), t)
    middles = ((t * 100).floor() + 0.5) / 100
    assert torch.allclose(4 * middles / p, torch.full((64,), 2.0, dtype=torch.float64))
