"""E2's own errors over the noise levels: their means, the grids and the online curves that follow from them."""

import numpy as np
import pytest
import torch

from diffseg import trial
from diffseg.config import Diffusion
from diffseg.diffusion import profile
from diffseg.diffusion.effective import effective_weight
from diffseg.diffusion.level_errors import LevelErrors, OnlineCurve
from diffseg.diffusion.schedules import log_snr
from diffseg.errors import ConfigError, UserError
from diffseg.experiments import build_network, denoising
from diffseg.randomness import generator
from diffseg.training import checkpoints

GAUSSIAN = Diffusion(schedule="cosine", log_snr_min=-12.0, log_snr_max=12.0)
MIDDLES = (torch.arange(100, dtype=torch.float64) + 0.5) / 100


def mmse(level, deviation=0.5):
    """The least error of x0 ~ N(0, s²)."""
    return deviation**2 / (1 + np.exp(level) * deviation**2)


def filled(kind=LevelErrors):
    """Errors that are those of a Gaussian, met in three batches."""
    errors = kind()
    for _ in range(3):
        errors.update(MIDDLES, torch.from_numpy(mmse(log_snr(MIDDLES, GAUSSIAN).numpy())), decay=0.999)
    return errors


def test_a_bins_mean_is_one_over_the_later_part_of_its_errors():
    errors, t = LevelErrors(), torch.full((2,), 0.255, dtype=torch.float64)
    values, expected = (3.0, 5.0, 1.0, 2.0, 8.0), 0.0
    for number, value in enumerate(values, start=1):
        errors.update(t, torch.tensor([value - 1, value + 1]), decay=0.0)
        expected += (1 - ((number - 1) / number) ** 4) * (value - expected)
        assert float(errors.mean[25]) == pytest.approx(expected)
    assert errors.visits.sum() == errors.visits[25] == 5
    for _ in range(200):  # 97 % of the weight lies on the last 60 %
        errors.update(t, torch.zeros(2), decay=0.0)
    assert float(errors.mean[25]) < 1e-4


def test_the_information_of_a_gaussian_is_known():
    """SNR mmse, less what is left at the clean end, is the rate of ln(1 + s² SNR)."""
    found = filled().curve("entropy-rate", GAUSSIAN)
    levels = found.log_snr
    expected = np.exp(levels) * (mmse(levels) - mmse(levels[0]))
    inside = (levels > -9) & (levels < 5)  # smoothing bends the ends
    assert found.weight[inside] == pytest.approx((expected / expected.max())[inside], abs=0.06)


def test_before_any_step_there_is_no_curve():
    with pytest.raises(UserError, match="before any training step"):
        LevelErrors().curve("entropy-rate", GAUSSIAN)


def test_the_errors_of_x0_are_recorded_in_training_alone(tiny, tmp_path):
    trial.run(tiny(training__steps=16, training__batch=16), None, tmp_path, device="cpu")
    saved = checkpoints.load(tmp_path, "cpu")["average"]
    visits, mean = saved["level_errors.visits"], saved["level_errors.mean"]
    assert 16 * 14 < visits.sum() <= 16 * 16  # timesteps of a batch lie in different bins, but for neighbours
    assert 0.01 < mean[visits > 0].mean() < 1  # of masks in ±1, after some learning
    assert (mean[visits == 0] == 0).all()


@pytest.mark.parametrize("experiment", ["e1", "e3", "e4"])
def test_other_experiments_keep_none(experiment, tiny):
    assert not hasattr(build_network(tiny(experiment=experiment)), "level_errors")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("grid", ["entropic", "least-kl"])
def test_grids_follow_the_training_which_they_share(grid, tiny, tmp_path):
    settings = {"training__steps": 16, "training__batch": 16, "inference__steps": 6}
    found = {
        name: trial.run(tiny(inference__grid=name, **settings), None, tmp_path, device="cpu").trial
        for name in ("uniform", grid)
    }
    assert found[grid]["resumed_seconds"] == found["uniform"]["train_seconds"]
    assert found[grid]["brier"] != found["uniform"]["brier"]
    assert found[grid]["evaluations"] == 6


class TestOnlineCurve:
    def test_it_equals_the_profile_of_its_knots(self):
        diffusion = GAUSSIAN.model_copy(
            update={"density": "online", "weighting": "online", "fingerprint": "entropy-rate", "mixing": 0.1}
        )
        online = filled(OnlineCurve)
        online.refresh(diffusion)
        knots = online.curve("entropy-rate", diffusion).knots()
        fixed = diffusion.model_copy(update={"density": "profile", "weighting": "profile", "profile": knots})
        assert torch.allclose(online.probabilities, profile.bin_probabilities(fixed, "cpu"))
        t = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        assert torch.allclose(online.weight(t, diffusion), profile.weight(log_snr(t, diffusion), fixed), atol=1e-9)
        weights = [effective_weight(t, one, None, two)[1] for one, two in ((diffusion, online), (fixed, None))]
        assert torch.allclose(*weights, rtol=1e-6)

    def test_it_stays_flat_until_the_errors_rise_with_the_noise(self):
        online = OnlineCurve()
        online.refresh(GAUSSIAN)
        assert (online.heights == 1).all()
        online.update(MIDDLES, torch.ones(100), decay=0.9)
        online.refresh(GAUSSIAN)
        assert torch.allclose(online.probabilities, torch.full((profile.BINS,), 1 / profile.BINS, dtype=torch.float64))

    def test_it_has_no_effective_weight_before_it_is_trained(self):
        diffusion = Diffusion(weighting="online")
        with pytest.raises(UserError, match="trained network's curve"):
            effective_weight(MIDDLES, diffusion)

    @pytest.mark.parametrize(
        ("leaves", "words"),
        [
            ({"diffusion__density": "online", "diffusion__fingerprint": "dice"}, "mask-error or entropy-rate"),
            ({"diffusion__density": "online", "diffusion__weighting": "fingerprint"}, "of one curve"),
        ],
    )
    def test_what_it_cannot_follow_is_refused(self, leaves, words, tiny):
        with pytest.raises(ConfigError, match=words):
            tiny(**leaves)

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(
        ("kind", "curves"), [("entropy-rate", {"density": "online"}), ("mask-error", {"weighting": "online"})]
    )
    def test_training_follows_it_and_resumes_exactly(self, kind, curves, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(denoising, "REFRESH", 8)
        settings = {f"diffusion__{name}": value for name, value in curves.items()}
        steps = {"training__steps": 12, "training__batch": 16, "training__checkpoint_every": 8}
        config = tiny(diffusion__fingerprint=kind, **steps, **settings)
        whole = trial.run(config, None, tmp_path / "whole", device="cpu")
        for path in (tmp_path / "whole").glob("step-00000012*"):
            path.unlink()
        resumed = trial.run(config, None, tmp_path / "whole", device="cpu")
        assert resumed.trial["resumed_seconds"] > 0
        assert resumed.trial["brier"] == whole.trial["brier"]
        assert resumed.timesteps == whole.timesteps
        plain = trial.run(tiny(**steps), None, tmp_path / "plain", device="cpu")
        before, after = (
            {row["step"]: row["value"] for row in outcome.curves if row["metric"] == "loss"}
            for outcome in (plain, whole)
        )
        assert before[8] == after[8]  # until the first refresh the curve is flat
        assert before[12] != after[12]


def test_drawing_by_an_online_curve_draws_where_masks_are_decided():
    from diffseg.diffusion.densities import sample_timesteps

    diffusion = GAUSSIAN.model_copy(update={"density": "online", "fingerprint": "entropy-rate"})
    online = filled(OnlineCurve)
    online.refresh(diffusion)
    t, density = sample_timesteps(10_000, diffusion, generator("cpu", 0), online.probabilities)
    levels = log_snr(t, diffusion)
    weights = online.curve("entropy-rate", diffusion).weight
    inside = online.curve("entropy-rate", diffusion).log_snr[weights > 0.5]
    assert float(((levels > inside.min()) & (levels < inside.max())).double().mean()) > 0.6
    assert density.min() >= 0
