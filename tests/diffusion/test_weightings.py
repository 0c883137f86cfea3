"""Loss weightings and the effective weight: closed forms, equal curves, the same loss whatever the target."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffseg.config import Config, Diffusion
from diffseg.diffusion.densities import timestep_density
from diffseg.diffusion.effective import effective_weight
from diffseg.diffusion.schedules import log_snr, slope
from diffseg.diffusion.targets import activate
from diffseg.diffusion.uncertainty import Uncertainty
from diffseg.diffusion.weightings import TARGET_ERROR_IN_X0, WEIGHTINGS, target_weight
from diffseg.errors import ConfigError, UserError
from diffseg.experiments import build_experiment
from diffseg.labels.labels import Labels
from diffseg.randomness import generator

PROFILE = ((-12.0, 0.0), (-4.0, 2.0), (0.0, 1.0), (6.0, 0.0))
ON_EPSILON = {  # each weighting as published, on ε's error as a function of the SNR s, with default settings
    "uniform": lambda s: 1 / s,
    "snr": lambda s: 1 + 0 * s,
    "snr+1": lambda s: 1 + 1 / s,
    "truncated-snr": lambda s: np.maximum(1, 1 / s),
    "min-snr": lambda s: np.minimum(s, 5) / s,
    "soft-min-snr": lambda s: 5 / (s + 5),
    "p2": lambda s: 1 / (1 + s),
    "sigmoid": lambda s: 1 / (1 + s),
    "edm": lambda s: (1 / s + 0.25) / (1 / s * 0.25) / s,
    "debiased": lambda s: 1 / np.sqrt(s),
}
T = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)


def made(**settings):
    settings = {"profile": PROFILE} | settings if "profile" in settings.values() else settings
    return Diffusion(**settings)


@pytest.mark.parametrize("target", TARGET_ERROR_IN_X0)
@pytest.mark.parametrize("weighting", ON_EPSILON)
def test_weights_equal_the_published_ones_for_every_target(target, weighting):
    diffusion = made(weighting=weighting, target=target, schedule="cosine")
    snr = log_snr(T, diffusion).exp().numpy()
    own = {  # the target's error in units of ε's
        "epsilon": 1,
        "x0": 1 / snr,
        "v": 1 + 1 / snr,
        "flow": (1 + 1 / np.sqrt(snr)) ** 2,
        "edm": 1 + 4 / snr,
        "x0-epsilon": np.where(snr >= 1, 1, 1 / snr),
    }[target]
    assert np.allclose(target_weight(T, diffusion).numpy() * own, ON_EPSILON[weighting](snr))


def test_every_weighting_is_tested():
    choices = set(Diffusion.model_fields["weighting"].annotation.__args__)
    assert choices == set(WEIGHTINGS) | {"target", "learned", "fingerprint", "online"}
    assert set(ON_EPSILON) | {"profile"} == set(WEIGHTINGS)


def effective(**settings):
    return effective_weight(T, made(**settings))[1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "laplace"])
@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize(
    "same",
    [
        [("p2", {"gamma": 1.0}), ("soft-min-snr", {"gamma": 1.0}), ("sigmoid", {"bias": 0.0})],
        [("snr+1", {}), ("edm", {"sigma_data": 1.0}), ("target", {"target": "v"})],
        [("snr", {}), ("target", {"target": "epsilon"})],
        [("uniform", {}), ("target", {"target": "x0"})],
    ],
)
def test_weightings_that_coincide_are_equal(same, schedule, scale):
    first, *others = [
        effective(**{"weighting": name, "target": "x0", "schedule": schedule, "input_scale": scale} | more)
        for name, more in same
    ]
    assert all(torch.allclose(first, other, rtol=1e-9) for other in others)


def test_effective_weights_of_the_cosine_equal_their_closed_forms():
    """p(λ) is sech(λ/2)/2π (Kingma & Gao, 2023, Table 1)."""
    level, of_epsilon = effective_weight(T, made(schedule="cosine", target="epsilon"))
    of_level = 1 / torch.cosh(level / 2) / (2 * math.pi)
    assert torch.allclose(of_epsilon, of_level, rtol=1e-4)
    assert torch.allclose(effective(schedule="cosine", target="v"), (-level / 2).exp() / math.pi, rtol=1e-4)
    gaussian = torch.exp(torch.distributions.Normal(2.4, 2.4).log_prob(log_snr(T, made(schedule="edm"))))
    edm = effective(schedule="edm", weighting="edm")
    expected = gaussian * ((-log_snr(T, made(schedule="edm"))).exp() + 0.25) * 4
    assert torch.allclose(edm, expected, rtol=1e-3)


@given(
    schedule=st.sampled_from(["linear", "cosine", "sigmoid", "logit-normal"]),
    weighting=st.sampled_from(["target", "min-snr", "p2", "sigmoid", "profile"]),
    target=st.sampled_from(["epsilon", "x0", "v"]),
    distribution=st.sampled_from(["uniform", "profile"]),
    decoupled=st.booleans(),
    scale=st.floats(0.05, 1),
)
def test_the_effective_weight_integrates_to_the_mean_over_t(
    schedule, weighting, target, distribution, decoupled, scale
):
    """∫ W(λ) f(λ) dλ over the log-SNR is the mean of the weighted loss over the training timesteps, here f = (e^λ/(1 + e^λ)²)²."""
    diffusion = made(
        schedule=schedule,
        weighting=weighting,
        target=target,
        density=distribution,
        decoupled=decoupled,
        input_scale=scale,
        profile=PROFILE,
    )
    t = torch.sigmoid(torch.linspace(-10, 18, 20_001, dtype=torch.float64))  # fine where a schedule is steep
    level, weight = effective_weight(t, diffusion)
    error = (torch.sigmoid(level) * torch.sigmoid(-level)).square()  # an error of ε, small at both ends
    own = error * (level.exp() / TARGET_ERROR_IN_X0[target](level, diffusion)).reciprocal()
    factor = target_weight(t, diffusion)
    over_t = torch.trapezoid(timestep_density(t, diffusion) * (1 if factor is None else factor) * own, t)
    over_level = torch.trapezoid(weight * error, -level)
    assert float(over_level) == pytest.approx(float(over_t), rel=1e-2)


def test_a_decoupled_weight_does_not_depend_on_the_schedule():
    for target in ("epsilon", "x0", "v"):
        for schedule, scale in (("linear", 1.0), ("cosine", 0.1), ("laplace", 1.0)):
            diffusion = made(
                schedule=schedule, input_scale=scale, weighting="sigmoid", bias=-4.0, decoupled=True, target=target
            )
            level, weight = effective_weight(T, diffusion)
            assert torch.allclose(weight, torch.sigmoid(level + 4) * (-level).exp(), rtol=1e-6)


def test_the_sigmoid_weight_is_a_half_at_its_bias_as_in_ambdiffseg():
    level = torch.tensor([-4.0, -8.0, 0.0], dtype=torch.float64)
    weight = WEIGHTINGS["sigmoid"](level, made(weighting="sigmoid", bias=-4.0))
    assert weight.tolist() == pytest.approx([0.5, 1 / (1 + math.e**4), 1 / (1 + math.e**-4)])


class TestProfile:
    def weight(self, levels, **settings):
        return WEIGHTINGS["profile"](torch.tensor(levels, dtype=torch.float64), made(weighting="profile", **settings))

    def test_it_is_linear_between_knots_constant_beyond_and_at_most_one(self):
        found = self.weight([-20.0, -12.0, -8.0, -4.0, -2.0, 0.0, 3.0, 6.0, 20.0])
        assert found.tolist() == pytest.approx([0, 0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0])

    def test_floor_exponent_and_mixing(self):
        assert self.weight([-8.0, -20.0], profile_exponent=2.0).tolist() == pytest.approx([0.25, 0])
        assert self.weight([-8.0, -20.0], profile_floor=0.1).tolist() == pytest.approx([0.5, 0.1])
        assert self.weight([-8.0, -20.0], mixing=0.2).tolist() == pytest.approx([0.6, 0.2])

    @pytest.mark.parametrize("schedule", ["linear", "cosine", "cauchy"])
    def test_a_density_is_one_of_the_log_snr(self, schedule):
        diffusion = made(density="profile", schedule=schedule)
        t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        t = t[(log_snr(t, diffusion) > -9.5) & (log_snr(t, diffusion) < 5)]
        of_level = timestep_density(t, diffusion) / slope(t, diffusion)
        shape = np.interp(log_snr(t, diffusion), *zip(*PROFILE, strict=True))
        ratio = of_level.numpy() / shape
        assert ratio.std() / ratio.mean() < 0.01

    @pytest.mark.parametrize(
        ("leaves", "words"),
        [
            ({"weighting": "profile"}, "needs diffusion.profile, two or more knots"),
            ({"density": "profile", "profile": [[0.0, 1.0]]}, "needs diffusion.profile, two or more knots"),
            ({"profile": [[0.0, 1.0], [0.0, 2.0]]}, "must rise in log-SNR"),
            ({"profile": [[0.0, 0.0], [1.0, 0.0]]}, "one weight at least must be above 0"),
            ({"profile": [[0.0, 1.0], [1.0, -1.0]]}, "diffusion.profile.1.1: got -1.0"),
        ],
    )
    def test_invalid_profiles_are_refused(self, leaves, words):
        with pytest.raises(ConfigError, match=words) as error:
            Config().with_leaves({f"diffusion.{key}": value for key, value in leaves.items()})
        assert "\n" not in str(error.value)


class TestLearned:
    def test_it_learns_the_loss_at_each_noise_level(self):
        torch.manual_seed(0)
        uncertainty = Uncertainty()
        optimiser = torch.optim.Adam(uncertainty.parameters(), lr=1e-2)
        level = torch.linspace(-10, 10, 64, dtype=torch.float64)
        loss = (0.3 * level).exp() + 0.1
        assert torch.equal(uncertainty(level), torch.zeros(64))
        for _ in range(2000):
            expected = uncertainty(level)
            optimiser.zero_grad()
            (loss / expected.exp() + expected).mean().backward()
            optimiser.step()
        assert torch.allclose(uncertainty(level).double(), loss.log(), atol=0.1)

    def test_its_effective_weight_follows_the_trained_network(self):
        diffusion = made(weighting="learned", target="v", schedule="cosine")
        with pytest.raises(UserError, match="no effective weight before it is trained"):
            effective_weight(T, diffusion)
        uncertainty = Uncertainty()
        torch.nn.init.normal_(uncertainty.linear.weight, std=0.1)
        level, weight = effective_weight(T, diffusion, uncertainty)
        expected = effective(target="v", schedule="cosine") * (-uncertainty(level).double()).exp()
        assert torch.allclose(weight, expected)

    def test_it_is_refused_with_the_adaptive_density(self):
        with pytest.raises(ConfigError, match="never negative"):
            Config().with_leaves({"diffusion.weighting": "learned", "diffusion.density": "adaptive"})


@pytest.mark.parametrize("weighting", [*ON_EPSILON, "profile"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_same_x0_has_the_same_loss_for_every_target(weighting, decoupled, tiny):
    """Networks of ε, x0 and v predict the same x0, at three noise levels."""
    draw = generator("cpu", 0, "weights")
    images, masks = torch.randn(3, 3, 16, 16, generator=draw), torch.ones(3, 1, 16, 16)
    noise, error = torch.randn(2, 3, 1, 16, 16, generator=draw)
    t = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    losses = {}
    for target in ("epsilon", "x0", "v"):
        settings = {"diffusion.profile": PROFILE} if weighting == "profile" else {}
        config = (
            tiny(diffusion__target=target, diffusion__activation="identity", diffusion__decoupled=decoupled)
            .with_leaves({**settings, "diffusion.weighting": weighting})
            .resolved()
        )
        snr = log_snr(t, config.diffusion).exp().float().view(-1, 1, 1, 1)
        alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
        outputs = {
            "x0": masks + error,
            "epsilon": noise - alpha / sigma * error,
            "v": alpha * noise - sigma * masks - error / sigma,
        }
        network = lambda x_t, t, image: outputs[target]  # noqa: B023, E731
        losses[target] = float(build_experiment(config).loss_at(network, images, masks, t, noise))
    assert losses["epsilon"] == pytest.approx(losses["x0"], rel=1e-4)
    assert losses["v"] == pytest.approx(losses["x0"], rel=1e-4)


@pytest.mark.parametrize("coding", ["pm1", "01"])
def test_a_sigmoid_output_is_the_foreground_probability_in_the_masks_coding(coding):
    config = Config(diffusion=made(target="x0", activation="sigmoid", coding=coding))
    low = {"pm1": -1.0, "01": 0.0}[coding]
    logits = torch.tensor([-30.0, 0.0, math.log(3)]).view(1, 1, 1, 3)
    found = activate(logits, config.diffusion, Labels.of(config)).flatten()
    assert found.tolist() == pytest.approx([low, (1 + low) / 2, low + 0.75 * (1 - low)])
