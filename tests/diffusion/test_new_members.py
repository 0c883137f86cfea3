"""How to add a schedule, a sampler and a sampling grid: worked examples, each used by a trial or a sampler."""

from typing import Literal, get_args

import pytest
import torch

from diffseg import trial
from diffseg.config import Config, Diffusion, Inference
from diffseg.diffusion.grids import GRIDS, sampling_times
from diffseg.diffusion.losses import LOSSES
from diffseg.diffusion.registry import register
from diffseg.diffusion.samplers import SAMPLERS, run_steps
from diffseg.diffusion.schedules import SCHEDULES, alpha_sigma, log_snr
from diffseg.diffusion.weightings import WEIGHTINGS
from diffseg.errors import ConfigError

REGISTRIES = {  # by setting: the section, the registry, and choices that are no functions of the registry
    "schedule": (Diffusion, SCHEDULES, set()),
    "loss": (Diffusion, LOSSES, set()),
    "weighting": (Diffusion, WEIGHTINGS, {"target", "learned", "fingerprint", "online"}),
    "sampler": (Inference, SAMPLERS, set()),
    "grid": (Inference, GRIDS, set()),
}


@pytest.mark.parametrize("setting", REGISTRIES)
def test_a_setting_has_the_choices_of_its_registry(setting):
    section, registry, others = REGISTRIES[setting]
    assert set(get_args(section.model_fields[setting].annotation)) == {*registry, *others}


@pytest.fixture(autouse=True)
def registries():
    """Leaves the registries as they were."""
    before = {id(registry): (registry, dict(registry)) for registry in (SCHEDULES, SAMPLERS, GRIDS)}
    yield
    for registry, entries in before.values():
        registry.clear()
        registry.update(entries)


@pytest.fixture
def allow():
    """A function that adds a choice to a setting's Literal, as a contributor does in diffseg/config."""
    changed = []

    def annotate(section, setting, annotation):
        section.model_fields[setting].annotation = annotation
        section.model_rebuild(force=True)
        Config.model_rebuild(force=True)

    def add(section, setting, choice):
        before = section.model_fields[setting].annotation
        changed.append((section, setting, before))
        annotate(section, setting, Literal[(*get_args(before), choice)])

    yield add
    for one in reversed(changed):
        annotate(*one)


def test_a_new_schedule(allow, tiny, tmp_path):
    with pytest.raises(ConfigError, match="quadratic"):
        tiny(diffusion__schedule="quadratic")
    allow(Diffusion, "schedule", "quadratic")

    @register(SCHEDULES, "quadratic")
    def quadratic(t: torch.Tensor, diffusion: Diffusion) -> torch.Tensor:
        """Return λ where ᾱ = 1 − t²."""
        return -torch.logit(t.double().square())

    config = tiny(diffusion__schedule="quadratic")
    level = log_snr(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), config.diffusion)
    assert torch.sigmoid(level).tolist() == pytest.approx([1, 0.75, 0], abs=1e-6)
    outcome = trial.run(config, None, tmp_path, device="cpu")
    assert [row["log_snr"] for row in outcome.timesteps][:2] == pytest.approx([2.708, 1.0986], abs=1e-3)
    assert 0 <= outcome.trial["iou"] <= 1


@pytest.mark.slow
def test_a_new_sampler(allow, tiny, tmp_path):
    with pytest.raises(ConfigError, match="renoise"):
        tiny(inference__sampler="renoise")
    allow(Inference, "sampler", "renoise")

    @register(SAMPLERS, "renoise")
    def renoise(denoise, x, times, log_snr, noise, eta=0.0):
        """Sample by adding fresh noise to x̂0 (Song et al., 2023, consistency models, Algorithm 1)."""

        def step(x, x0, share, lambda_t, lambda_s):
            alpha_s, sigma_s = alpha_sigma(lambda_s, x)
            return alpha_s * x0 + sigma_s * noise()

        return run_steps(step, denoise, x, times, log_snr)

    settings = {"inference__steps": 4, "training__steps": 20}
    found = {
        sampler: trial.run(tiny(inference__sampler=sampler, **settings), None, tmp_path, device="cpu").trial
        for sampler in ("ancestral", "renoise")  # the second one resumes after the training of the first
    }
    assert found["renoise"]["evaluations"] == 4
    assert found["renoise"]["brier"] != found["ancestral"]["brier"]


@pytest.mark.slow
def test_a_new_sampling_grid(allow, tiny, tmp_path):
    with pytest.raises(ConfigError, match="quadratic"):
        tiny(inference__grid="quadratic")
    allow(Inference, "grid", "quadratic")

    @register(GRIDS, "quadratic")
    def quadratic(steps, log_snr, curve):
        """Return times that are denser near the clean end."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64).square()

    assert sampling_times(4, log_snr, grid="quadratic").tolist() == [1.0, 0.5625, 0.25, 0.0625, 0.0]
    found = {
        grid: trial.run(tiny(inference__grid=grid, training__steps=20), None, tmp_path, device="cpu").trial
        for grid in ("uniform", "quadratic")  # the second one resumes after the training of the first
    }
    assert found["quadratic"]["resumed_seconds"] > 0
    assert found["quadratic"]["brier"] != found["uniform"]["brier"]
