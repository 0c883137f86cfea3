"""Fingerprints of several classes: each class has its own, the mean or a named one weighs, and E3 is the same for all."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_fingerprint import WIDE, logistic, planted, weighted

from diffseg import trial
from diffseg.errors import ConfigError, UserError
from diffseg.experiments.signal_errors import measure_signal
from diffseg.fingerprint.classes import compute_fingerprints, describe_order, fingerprint_rows, summarise
from diffseg.fingerprint.curve import ERRORS, compute_fingerprint
from diffseg.labels.labels import Labels
from studies.definition.trial import trial_name
from studies.engine.request import TrialRequest
from studies.engine.worker import run_trial
from studies.search.fingerprints import list_classes, read_fingerprints
from studies.store.ledger import Ledger

TWO = {"early": 1, "late": 2}


def planted_classes(**middles):
    """Return rows of "all" and of classes, each of which is half lost at its log-SNR; None: the error does not rise."""
    curves = {name: np.zeros_like if middle is None else logistic(middle) for name, middle in middles.items()}
    curves = {
        "all": lambda level: np.mean([curve(level) for name, curve in curves.items() if name != "all"], 0)
    } | curves
    return [row | {"class": name} for name, curve in curves.items() for row in planted(curve, WIDE, count=100)]


class TestCurves:
    def test_each_class_has_the_curve_that_was_planted_and_all_their_mean(self):
        found = compute_fingerprints([planted_classes(early=-8.0, late=-2.0)], "mask-error", ("all", "early", "late"))
        assert found["early"].find_level(0.5) == pytest.approx(-8, abs=0.1)
        assert found["late"].find_level(0.5) == pytest.approx(-2, abs=0.1)
        assert found["all"].error == pytest.approx((found["early"].error + found["late"].error) / 2)

    def test_a_class_that_was_not_measured_is_refused_and_the_measured_ones_are_named(self):
        with pytest.raises(UserError, match=r"class core was not measured.*all, early, late"):
            compute_fingerprint([planted_classes(early=-8.0, late=-2.0)], "dice", "core")

    def test_rows_of_earlier_versions_are_of_all(self):
        rows = [row | {"class": None} for row in planted(logistic(-4.0))]
        assert (
            compute_fingerprint([rows], "dice").error.tolist()
            == compute_fingerprint([planted(logistic(-4.0))], "dice").error.tolist()
        )

    @pytest.mark.parametrize(
        ("middles", "words"),
        [
            ({"a": -8.0, "b": -2.0, "c": -5.0}, ["a is decided first", "-8.0", "b is decided last", "-2.0"]),
            ({"a": -5.1, "b": -5.0}, ["at about the same noise", "-5.1 to -5.0"]),
            ({"a": -8.0, "b": -2.0, "c": None}, ["a is decided first", "b is decided last"]),
        ],
    )
    def test_the_order_is_said_in_words(self, middles, words):
        found = compute_fingerprints([planted_classes(**middles)], "mask-error", ("all", *middles))
        order = describe_order(found)
        assert all(word in order for word in words), order

    def test_one_class_has_no_order(self):
        assert describe_order(compute_fingerprints([planted_classes(a=-4.0)], "dice", ("all", "a"))) == ""

    def test_a_class_without_a_rise_has_a_sentence_in_place_of_landmarks(self):
        found = compute_fingerprints([planted_classes(a=-4.0, b=None)], "mask-error", ("a", "b"))
        assert summarise(found["a"])["half"] == pytest.approx(-4, abs=0.1)
        (sentence,) = summarise(found["b"])["words"]
        assert "is 0 at all 100 noise levels" in sentence
        assert "half" not in summarise(found["b"])

    def test_e3_leaves_a_row_for_each_class_kind_and_level(self, tiny):
        config = tiny(experiment="e3", data__classes=TWO)
        rows = fingerprint_rows(planted_classes(early=-8.0, late=-2.0), "digest", config)
        found = {(row["class"], row["kind"], row["t"]) for row in rows}
        assert len(found) == len(rows) == 3 * len(ERRORS) * 100
        assert {row["class"] for row in rows} == {"all", *TWO}


def with_classes(tiny, **leaves):
    return weighted(tiny, **{"data__classes": TWO, "data__kind": "classes"} | leaves)


class TestConfig:
    def test_the_same_e3_measures_all_classes(self, tiny):
        names = [None, "early", "late"]
        configs = [with_classes(tiny, diffusion__fingerprint_class=name) for name in names]
        assert len({config.digest for config in configs}) == 3
        assert len({config.needs()[0].digest for config in configs}) == 1
        assert [list_classes(config)[0] for config in configs] == ["all", "early", "late"]

    def test_other_classes_regions_ignored_values_or_distances_need_another_e3(self, tiny):
        others = [
            {},
            {"data__classes": {"early": 2, "late": 1}},
            {"data__classes": {"early": 1, "later": 2}},
            {"data__classes": {"early": 1}},
            {"data__regions": True},
            {"data__ignore": [9]},
            {"diffusion__coding": "bits"},
            {"diffusion__coding": "sdf"},
            {"diffusion__coding": "sdf", "diffusion__distance_limit": 4.0},
        ]
        assert len({with_classes(tiny, **leaves).needs()[0].digest for leaves in others}) == len(others)

    @pytest.mark.parametrize(
        ("classes", "name", "words"),
        [
            (TWO, "core", '"core", which is no class of the masks: allowed are early, late, and null'),
            (TWO, "all", '"all", which is no class'),
            (TWO | {"background": 0}, "background", "allowed are early, late"),
            ({}, "foreground", "data.classes names none"),
        ],
    )
    def test_a_class_that_does_not_exist_is_refused(self, classes, name, words, tiny):
        for weighting in ("fingerprint", "uniform"):
            with pytest.raises(ConfigError) as error:
                tiny(data__classes=classes, diffusion__weighting=weighting, diffusion__fingerprint_class=name)
            assert words in str(error.value)
            assert "\n" not in str(error.value)

    def test_it_is_part_of_a_trial_only_where_it_is_used(self, tiny):
        assert tiny(data__classes=TWO, diffusion__fingerprint_class="late") == tiny(data__classes=TWO)
        only = {"data__classes": {"early": 1}}
        assert weighted(tiny, diffusion__fingerprint_class="early", **only) == weighted(tiny, **only)


def request_of(tmp_path, config):
    return TrialRequest(
        str(tmp_path), "study", trial_name(config), 1, config.canonical(), None, 1, 0, None, False
    )  # fmt: skip


class TestTrial:
    @pytest.mark.parametrize("name", [None, "early", "late"])
    def test_it_is_weighted_by_the_mean_or_by_the_named_class(self, name, tiny, tmp_path, monkeypatch):
        rows = planted_classes(early=-8.0, late=-2.0)
        monkeypatch.setattr(trial, "_fit", lambda config, folder, context: SimpleNamespace(timesteps=rows))
        config = with_classes(tiny, diffusion__fingerprint_class=name)
        found, columns = trial._measure_fingerprint(config, lambda config: None, lambda config: tmp_path)
        knots = compute_fingerprint([rows], "mask-error", name or "all").knots()
        assert found.diffusion.profile == knots
        assert json.loads(columns["fingerprint"]) == [list(knot) for knot in knots]

    def test_the_stored_e3_of_other_classes_is_not_used(self, tiny, tmp_path):
        config, ledger = with_classes(tiny), Ledger(str(tmp_path), "study")
        ledger.define({})
        assert read_fingerprints(config, ledger) is None
        assert run_trial(request_of(tmp_path, config.needs()[0])) == "complete"
        assert list(read_fingerprints(config, ledger)) == ["all", "early", "late"]
        chosen = with_classes(tiny, diffusion__fingerprint_class="late")
        assert list(read_fingerprints(chosen, ledger)) == ["late"]
        assert read_fingerprints(weighted(tiny), ledger) is None
        for leaves in (
            {"data__classes": {"early": 2, "late": 1}},
            {"data__classes": {"late": 2}},
            {"data__regions": True},
            {"data__ignore": [9]},
        ):
            assert read_fingerprints(with_classes(tiny, **leaves), ledger) is None


def masks_of(classes, tiny, coding, **leaves):
    """Return (labels, stored masks [B, 1, H, W] with ignored pixels, their signal)."""
    labels = Labels.of(tiny(experiment="e3", data__classes=classes, diffusion__coding=coding, **leaves))
    numbers = torch.randint(0, len(classes) + 1, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    truth = labels.read(numbers)
    return labels, truth, labels.coding.encode(truth.channels)


class TestCodings:
    """The mask error is in units of masks in ±1, whatever the coding."""

    @pytest.mark.parametrize("regions", [False, True])
    @pytest.mark.parametrize("classes", [{"early": 1}, TWO])
    def test_pm1_and_01_have_the_same_errors(self, classes, regions, tiny):
        share = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        found = []
        for coding in ("pm1", "01"):
            labels, truth, signal = masks_of(classes, tiny, coding, data__regions=regions)
            x0 = labels.coding.low + (labels.coding.high - labels.coding.low) * share[:, : labels.channels]
            found.append(measure_signal(x0, signal, truth, labels))
        for name, errors in found[0].items():
            assert errors.shape == (3, 1 if len(classes) == 1 else 3)
            assert torch.allclose(errors.float(), found[1][name].float(), atol=1e-5), name

    @pytest.mark.parametrize("coding", ["pm1", "01", "bits", "sdf"])
    @pytest.mark.parametrize("classes", [{"early": 1}, TWO])
    def test_the_true_signal_has_none_and_its_opposite_the_most(self, coding, classes, tiny):
        labels, truth, signal = masks_of(classes, tiny, coding)
        assert measure_signal(signal, signal, truth, labels)["mask_error"].abs().max() < 1e-6
        if len(classes) == 1:
            opposite = labels.coding.low + labels.coding.high - signal
            assert measure_signal(opposite, signal, truth, labels)["mask_error"] == pytest.approx(4, abs=1e-5)

    @pytest.mark.parametrize("coding", ["pm1", "01", "bits", "sdf"])
    def test_e3_measures_finite_errors_of_all_classes_that_make_curves(self, coding, tiny, tmp_path):
        (e3,) = with_classes(tiny, diffusion__coding=coding).needs()
        assert e3.diffusion.coding == coding
        rows = trial.run(e3, None, tmp_path, device="cpu").timesteps
        for kind, error in ERRORS.items():
            for name, one in compute_fingerprints([rows], kind, ("all", *TWO)).items():
                assert np.isfinite(one.error).all(), (kind, name)
                assert (np.diff(one.error_smooth) >= -1e-9).all()
                assert np.isfinite([one.find_level(0.5), one.limit]).all() or not one.weight.any()
                if error == "mask_error":
                    assert (one.error >= 0).all()
                    assert (one.error <= 4).all()
