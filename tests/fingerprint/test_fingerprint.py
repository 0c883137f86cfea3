"""Fingerprints: planted error curves give back what was planted; and trials that are weighted by one train E3 first."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffseg import trial
from diffseg.config import Config, Diffusion
from diffseg.diffusion.combinations import find_problems
from diffseg.diffusion.effective import effective_weight
from diffseg.diffusion.schedules import log_snr
from diffseg.errors import ConfigError, UserError
from diffseg.experiments import build_experiment
from diffseg.fingerprint.curve import ERRORS, compute_fingerprint
from studies.definition.reading import read_study
from studies.definition.trial import trial_name
from studies.engine.request import TrialRequest
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

KINDS = tuple(ERRORS)
WIDE = Diffusion(schedule="cosine", input_scale=0.1)


def planted(error, diffusion=WIDE, count=50, step=1, noise=0.0):
    """Return rows over the noise levels of a schedule whose errors are all error(λ)."""
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    level = log_snr(t, diffusion).numpy()
    values = error(level) + noise * np.random.default_rng(0).standard_normal(count)
    errors = ("mask_error", "dice_error", "cross_entropy")
    return [
        {"step": step, "t": float(a), "log_snr": float(b), **dict.fromkeys(errors, float(c))}
        for a, b, c in zip(t, level, values, strict=True)
    ]


def logistic(middle, height=0.7):
    """Return height σ(middle − λ): half is lost at the middle, and the derivative is height σ(1 − σ)."""
    return lambda level: height / (1 + np.exp(level - middle))


@pytest.mark.parametrize("kind", ["mask-error", "dice", "cross-entropy"])
@pytest.mark.parametrize("middle", [-6.0, -4.0, -2.0])
def test_a_planted_curve_gives_its_derivative_and_its_half(kind, middle):
    found = compute_fingerprint([planted(logistic(middle), count=200)], kind)
    share = logistic(middle, 1.0)(found.log_snr)
    inner = (found.log_snr > -10) & (found.log_snr < 2)
    assert np.abs(found.error_smooth - found.error)[inner].max() < 0.01
    assert np.abs(found.derivative - 0.7 * share * (1 - share))[inner].max() < 0.01
    summary = found.summary()
    assert summary["half"] == pytest.approx(middle, abs=0.05)
    assert summary["peak"] == pytest.approx(middle, abs=0.15)
    assert summary["kept"] == pytest.approx(middle + math.log(19), abs=0.2)
    assert summary["lost"] == pytest.approx(middle - math.log(19), abs=0.2)
    assert summary["converged"]
    assert summary["limit"] == pytest.approx(0.7, abs=0.005)
    assert found.derivative_t.max() == pytest.approx(np.gradient(found.error, found.t).max(), rel=0.05)


def test_the_entropy_rate_of_one_pixel_integrates_to_its_entropy():
    """x0 of −1 or 1 at even odds: the area under ½ SNR mmse over λ is its entropy, ln 2 (Guo et al., 2005)."""
    z, w = np.polynomial.hermite_e.hermegauss(101)
    snr = lambda level: np.exp(np.minimum(level, 5.0))[:, None]  # noqa: E731  # beyond, nothing is left to recover
    mmse = lambda level: 1 - np.tanh(snr(level) + np.sqrt(snr(level)) * z) @ (w / w.sum())  # noqa: E731
    found = compute_fingerprint([planted(mmse, Diffusion(schedule="cosine"), count=400)], "entropy-rate")
    order = np.argsort(found.log_snr)
    level, weight = found.log_snr[order], found.weight[order]
    exact = np.exp(level) * mmse(level)
    assert np.trapezoid(exact / 2, level) == pytest.approx(math.log(2), rel=0.01)
    shares = weight / np.trapezoid(weight, level)
    assert np.abs(shares - exact / np.trapezoid(exact, level)).max() < 0.04  # of 0.23 at most: smoothed
    assert level[weight.argmax()] == pytest.approx(0.5, abs=0.2)


def test_a_curve_that_has_not_converged_says_which_final_log_snr_would_do():
    found = compute_fingerprint(
        [planted(logistic(-7.0), Diffusion(log_snr_min=-8.0, schedule="linear"), count=100)], "mask-error"
    )
    summary = found.summary()
    assert not summary["converged"]
    assert summary["lost"] == pytest.approx(-7 - math.log(19), abs=0.6)  # extrapolated
    assert math.isnan(summary["lost_t"])
    assert f"a final log-SNR of {summary['lost']:.1f} would do" in found.describe()[-1]
    further = compute_fingerprint([planted(logistic(-7.0), count=100)], "mask-error")  # measured
    assert further.summary()["lost"] == pytest.approx(-7 - math.log(19), abs=0.2)
    assert "has converged" in further.describe()[-1]


@given(
    st.lists(st.floats(0, 4), min_size=2, max_size=40),
    st.sampled_from(KINDS),
    st.sampled_from([Diffusion(), WIDE, Diffusion(schedule="simple-linear")]),
)
def test_the_curve_is_monotone_and_the_weights_are_shares_whatever_was_measured(values, kind, diffusion):
    values = np.array(values)
    found = compute_fingerprint([planted(lambda level: values, diffusion, count=len(values))], kind)
    assert (np.diff(found.error_smooth) >= -1e-9).all()
    assert (found.derivative >= 0).all()
    assert (found.weight >= -1e-9).all()
    assert found.weight.max() == pytest.approx(1) or not found.weight.any()
    if found.weight.any():
        levels = [level for level, _ in found.knots()]
        assert levels == sorted(set(levels))
        Diffusion(weighting="profile", profile=found.knots())  # is accepted


def test_noise_is_smoothed_away():
    clean, noisy = (compute_fingerprint([planted(logistic(-4.0), noise=noise)], "mask-error") for noise in (0.0, 0.01))
    inner = clean.log_snr > -11
    assert np.corrcoef(clean.weight[inner], noisy.weight[inner])[0, 1] > 0.98
    assert noisy.summary()["half"] == pytest.approx(-4, abs=0.1)


def test_several_trials_are_averaged_and_the_last_step_counts():
    early = planted(logistic(0.0), step=3)
    late = [planted(logistic(middle), step=6) for middle in (-5.0, -3.0)]
    both = compute_fingerprint([early + late[0], late[1]], "mask-error")
    assert np.allclose(both.error, [(a["mask_error"] + b["mask_error"]) / 2 for a, b in zip(*late, strict=True)])


def test_a_curve_without_a_rise_is_refused_as_a_weighting():
    found = compute_fingerprint([planted(lambda level: np.full_like(level, 0.4))], "dice")
    with pytest.raises(UserError, match=r"0 at all 50 noise levels.*train it longer"):
        found.knots()


def weighted(tiny, **leaves):
    return tiny(diffusion__weighting="fingerprint", inference__timesteps=12, **leaves)


class TestConfig:
    def test_all_schedules_seeds_and_kinds_need_one_and_the_same_e3(self, tiny):
        (e3,) = weighted(tiny).needs()
        assert (e3.experiment, e3.seed, e3.network) == ("e3", 0, tiny().network)
        assert e3.data == tiny(data__held_out=0.2).data  # no test mask has a part in training
        others = [
            {"diffusion__schedule": "cosine", "diffusion__input_scale": 0.3, "seed": 7},
            {"diffusion__target": "epsilon", "diffusion__fingerprint": "dice", "diffusion__profile_floor": 0.1},
            {"diffusion__density": "fingerprint", "inference__steps": 9, "inference__ensemble": 3},
        ]
        assert {other.digest for leaves in others for other in weighted(tiny, **leaves).needs()} == {e3.digest}
        assert e3.needs() == tiny().needs() == []

    def test_another_size_coding_or_network_needs_another(self, tiny):
        others = [
            {"data__size": 32},
            {"diffusion__coding": "01"},
            {"network__width": 64},
            {"diffusion__fingerprint_steps": 3},
            {"data__kind": "many"},
            {},
        ]
        assert len({weighted(tiny, **leaves).needs()[0].digest for leaves in others}) == len(others)

    def test_the_mean_over_seeds_and_over_networks(self, tiny):
        names = ["ensemdiff", "segdiff", "medsegdiff"]
        config = weighted(tiny, diffusion__fingerprint_networks=names, diffusion__fingerprint_seeds=[3, 4])
        found = [(other.network.name, other.network.width, other.seed) for other in config.needs()]
        assert found == [(name, 32, seed) for name in names for seed in (3, 4)]
        alone = weighted(tiny, diffusion__fingerprint_networks=["ensemdiff"])
        assert alone.digest == weighted(tiny).digest

    def test_its_settings_are_part_of_a_trial_only_where_they_are_used(self, tiny):
        assert tiny(diffusion__fingerprint="dice", diffusion__fingerprint_steps=3) == tiny()
        assert weighted(tiny, diffusion__fingerprint="dice") != weighted(tiny)
        assert weighted(tiny, diffusion__fingerprint_steps=6) == weighted(tiny)  # its own number of steps
        assert weighted(tiny, experiment="e3").diffusion.weighting == "target"

    @pytest.mark.parametrize(
        ("leaves", "words"),
        [
            ({"diffusion__fingerprint": "error"}, "mask-error"),
            ({"diffusion__fingerprint_seeds": []}, "fingerprint_seeds"),
            ({"diffusion__fingerprint_seeds": [1, 1]}, "must differ"),
            ({"diffusion__density": "profile", "diffusion__profile": [[-4, 1], [0, 0]]}, "of one curve"),
        ],
    )
    def test_mistakes(self, leaves, words, tiny):
        with pytest.raises(ConfigError, match=words):
            weighted(tiny, **leaves)

    def test_unmeasured_it_is_no_curve(self, tiny):
        with pytest.raises(ConfigError, match="train them first"):
            build_experiment(weighted(tiny))
        with pytest.raises(UserError, match="before it is measured"):
            effective_weight(torch.tensor([0.5]), weighted(tiny).diffusion)

    def test_that_it_leaves_noise_levels_untrained_is_warned_of(self, tiny):
        (sentence,) = find_problems(weighted(tiny))
        assert "diffusion.profile_floor or diffusion.mixing above 0" in sentence
        assert (
            find_problems(weighted(tiny, diffusion__mixing=0.1))
            == find_problems(weighted(tiny, diffusion__profile_floor=0.1))
            == []
        )


class TestTrial:
    @pytest.mark.slow
    def test_it_trains_as_with_the_profile_that_e3_measured(self, tiny, tmp_path):
        """Bit for bit, whether E3 was run before or not; the knots are on record."""
        config = weighted(tiny, diffusion__density="fingerprint", diffusion__mixing=0.1)
        (e3,) = config.needs()
        measured = trial.run(e3, None, tmp_path / "e3", device="cpu")
        found = trial.run(config, None, tmp_path / "e2", device="cpu", folder_of=lambda other: tmp_path / "e3")
        knots = compute_fingerprint([measured.timesteps], "mask-error").knots()
        assert json.loads(found.trial["fingerprint"]) == [list(knot) for knot in knots]
        same = {"weighting": "profile", "density": "profile", "profile": knots}
        equivalent = config.model_copy(update={"diffusion": config.diffusion.model_copy(update=same)})
        given = trial.run(equivalent, None, tmp_path / "given", device="cpu")
        anew = trial.run(config, None, tmp_path / "anew", device="cpu")
        for other in (given, anew):
            assert other.images == found.images
            assert other.timesteps == found.timesteps
        assert "fingerprint" not in given.trial
        plain = trial.run(tiny(inference__timesteps=12), None, tmp_path / "plain", device="cpu")
        assert plain.images != found.images

    def test_e3_leaves_its_fingerprints(self, tiny, tmp_path):
        (e3,) = weighted(tiny).needs()
        rows = trial.run(e3, None, tmp_path, device="cpu").fingerprints
        assert len(rows) == 12 * len(KINDS)
        assert {(row["dataset"], row["size"], row["coding"]) for row in rows} == {("synthetic-large", 16, "pm1")}
        assert {row["kind"] for row in rows} == set(KINDS)

    def test_through_the_worker_it_goes_on_from_the_study_s_e3(self, tiny, tmp_path):
        config = weighted(tiny)
        order = TrialRequest(
            store=str(tmp_path),
            study="study",
            trial="",
            attempt=1,
            config="",
            root=None,
            cpus=1,
            gpus=0,
            commit=None,
            dirty=False,
        )
        ledger = Ledger(str(tmp_path), "study")
        ledger.define({})
        for one in (*config.needs(), config):
            assert run_trial(replace(order, trial=trial_name(one), config=one.canonical())) == "complete"
        rows = {row["experiment"]: row for row in ledger.last_rows()}
        e2, e3 = rows["e2"], rows["e3"]
        assert e2["config_diffusion_weighting"] == "fingerprint"  # as it was declared
        assert e3["fingerprint"] is None
        levels = [level for level, _ in json.loads(e2["fingerprint"])]
        rows = [row for row in ledger.read("fingerprints").to_pylist() if row["kind"] == "mask-error"]
        assert {row["trial"] for row in rows} == {trial_name(config.needs()[0])}
        assert {row["digest"] for row in rows} == {e3["data_digest"]}
        assert sorted(row["log_snr"] for row in rows) == levels[1:-1]
        assert len(list((tmp_path / "study/work").iterdir())) == 2  # E3 was not trained again


def test_a_study_has_the_e3_trials_that_its_fingerprints_need():
    leaves = {"diffusion.weighting": "fingerprint", "diffusion.mixing": 0.1}
    study = read_study("quickstart", {}, leaves, experiments=("e2",))
    for config in [one.config for one in study.trials if one.config.experiment == "e2"]:
        names = [one.name for one in study.trials]
        (e3,) = config.needs()
        assert names.index(trial_name(e3)) < names.index(trial_name(config))
    assert len(study.trials) == 6
    assert Config().needs() == []


def test_the_steepest_t_depends_on_the_schedule():
    """A rise from t = 0.6 to t = 0.9 that is linear in t is not linear in log-SNR, which the cosine schedule crosses unevenly."""
    t = lambda level: 2 / np.pi * np.arctan(0.1 * np.exp(-level / 2))  # noqa: E731
    found = compute_fingerprint(
        [planted(lambda level: np.clip((t(level) - 0.6) / 0.3, 0, 1), count=200)], "mask-error"
    ).summary()
    assert found["steepest_t"] == pytest.approx(0.75, abs=0.03)
    assert found["peak_t"] < found["steepest_t"] - 0.01


def test_the_peak_is_the_middle_of_a_flat_top():
    """Two rises of equal height lie side by side, one a little steeper: the peak is between them, not on the steeper one."""
    two = lambda level: logistic(-6.5, 0.36)(level) + logistic(-3.5, 0.34)(level)  # noqa: E731
    found = compute_fingerprint([planted(two, count=200)], "mask-error")
    assert found.log_snr[found.derivative.argmax()] < -5.5
    assert found.summary()["peak"] == pytest.approx(-5.1, abs=0.4)
