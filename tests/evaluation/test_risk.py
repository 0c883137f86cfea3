"""Decisions with a guarantee: the threshold, the guarantee in simulations, and whole trials with a limit of the risk."""

import numpy as np
import pytest
import torch
from conftest import split_of

from diffseg import trial
from diffseg.config import Config
from diffseg.data import load
from diffseg.errors import ConfigError, DataError
from diffseg.evaluation.risk import (
    EVERYTHING,
    THRESHOLDS,
    RiskCounter,
    Risks,
    choose_threshold,
    measure_risks,
    with_threshold,
)
from diffseg.prediction.merging import Prediction
from diffseg.randomness import generator

LIMITED = {
    "data__calibration": 0.5,
    "data__train_images": 24,
    "inference__risk__metric": "fnr",
    "inference__risk__level": 0.2,
}


def losses_of(units, rise):
    """Return losses that rise from 0 with the threshold, by each unit's own step."""
    steps = torch.arange(len(THRESHOLDS), dtype=torch.float64) / len(THRESHOLDS)
    return Risks(tuple(map(str, range(units))), (steps[None] * torch.as_tensor(rise)[:, None]).clamp(max=1))


def test_the_threshold_is_the_greatest_whose_bound_keeps_the_level():
    risks = losses_of(19, np.linspace(0.2, 1.4, 19))
    found = THRESHOLDS.index(choose_threshold(risks, 0.3))
    bounds = 19 / 20 * risks.losses.mean(0) + 1 / 20
    assert bounds[found] <= 0.3 < bounds[found + 1]
    assert (
        choose_threshold(losses_of(9, np.full(9, 100.0)), 0.1) == EVERYTHING
    )  # the bound without any loss is the level
    assert choose_threshold(losses_of(9, np.zeros(9)), 0.1) == THRESHOLDS[-1]


def test_losses_are_the_shares_of_a_patients_mask_that_are_not_marked(tiny):
    """By counting, patient by patient, with probabilities that lie on thresholds, and one patient without a mask."""
    draw = generator("cpu", 0)
    masks = [(torch.rand(1, 16, 16, generator=draw) > 0.7).byte() for _ in range(5)] + [torch.zeros(1, 16, 16).byte()]
    split = split_of([torch.zeros(3, 16, 16, dtype=torch.uint8)] * 6, masks)
    split = type(split)(**{**vars(split), "groups": ("a", "b", "a", None, "b", None)})
    means = [torch.randint(0, 11, (1, 16, 16), generator=draw) / 10 for _ in range(6)]
    predictions = [Prediction(i, mean, mean, mean[None] > 0.5, torch.ones(())) for i, mean in enumerate(means)]
    found = measure_risks(predictions, split, tiny())
    assert found.units == ("a", "b", "3", "5")
    for threshold in (EVERYTHING, 0.0, 0.1, 0.3, 0.55, 0.7, 0.999):
        place = THRESHOLDS.index(threshold)
        for unit, images in {"a": [0, 2], "b": [1, 4], "3": [3], "5": [5]}.items():
            true = sum(int(masks[i].sum()) for i in images)
            missed = sum(int(((means[i] <= threshold) & masks[i].bool()).sum()) for i in images)
            expected = missed / true if true else 0.0
            assert found.losses[found.units.index(unit), place] == pytest.approx(expected), (threshold, unit)
    assert found.mean_at(0.3) == pytest.approx(float(found.losses[:, THRESHOLDS.index(0.3)].mean()))


def test_ignored_pixels_and_what_most_raters_left_out_do_not_count(tiny):
    marked = torch.zeros(3, 16, 16, dtype=torch.uint8)
    marked[:2, :4], marked[2, 8:] = 1, 1  # most raters mark the upper rows
    marked[:, 0] = 255
    split = split_of([torch.zeros(3, 16, 16, dtype=torch.uint8)], [marked])
    mean = torch.zeros(1, 16, 16)
    mean[:, :2] = 0.9
    prediction = Prediction(0, mean, mean, mean[None] > 0.5, torch.ones(()))
    counter = RiskCounter(split, tiny(data__ignore=[7]))
    (passed,) = counter.count([prediction])
    assert passed is prediction
    assert counter.risks().mean_at(0.5) == pytest.approx(2 / 3)  # of rows 1 to 3, row 1 is marked


def test_the_expected_loss_of_a_new_patient_keeps_the_level():
    """Over 2,000 draws of calibration and test patients whose losses vary greatly; and not far below it, so that it is of use."""
    draw, level = np.random.default_rng(0), 0.1
    realised = []
    for _ in range(2000):
        rise = draw.gamma(0.5, 1.0, 41)
        found = choose_threshold(losses_of(40, rise[:40]), level)
        realised.append(losses_of(1, rise[40:]).mean_at(found))
    assert np.mean(realised) <= level + 2 * np.std(realised) / np.sqrt(len(realised))
    assert np.mean(realised) > 0.06


@pytest.mark.sampled(1)
@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_a_trial_keeps_images_back_chooses_a_threshold_and_cuts_masks_at_it(experiment, tiny, tmp_path):
    config = tiny(experiment=experiment, **LIMITED)
    outcome = trial.run(config, None, tmp_path / "limited")
    plain = trial.run(config.with_leaves({"inference.risk.metric": "none"}).resolved(), None, tmp_path / "plain")
    row = outcome.trial
    assert (row["train_images"], row["risk_units"]) == (12, 12)
    assert row["ece"] == plain.trial["ece"]  # one training, the same probabilities
    assert config.trained == config.with_leaves({"inference.risk.metric": "none"}).resolved().trained
    assert (plain.risks, "risk" in plain.trial) == ([], False)

    curves = {
        images: [one["risk"] for one in outcome.risks if one["images"] == images and one["unit"] is None]
        for images in ("calibration", "test")
    }
    assert curves["calibration"] == sorted(curves["calibration"])
    assert [one["threshold"] for one in outcome.risks if one["unit"] is None][: len(THRESHOLDS)] == list(THRESHOLDS)
    place = THRESHOLDS.index(row["risk_threshold"])
    bounds = [(risk * 12 + 1) / 13 for risk in curves["calibration"]]
    assert bounds[place] <= 0.2 < bounds[place + 1]
    assert row["risk"] == pytest.approx(curves["test"][place])
    patients = [one["risk"] for one in outcome.risks if one["images"] == "test" and one["unit"]]
    assert np.mean(patients) == pytest.approx(row["risk"])

    values = {(one["image"], one["metric"]): one["value"] for one in outcome.images if one["class"] == "all"}
    names = sorted({image for image, _ in values})
    missed = [1 - values[name, "shared_pixels"] / values[name, "true_pixels"] for name in names]
    assert np.mean(missed) == pytest.approx(row["risk"])  # so masks are cut at the threshold


def test_images_of_the_calibration_are_whole_patients_that_neither_training_nor_test_has():
    leaves = {"data.train_images": 30, "data.held_out": 0.2, "data.calibration": 0.25}
    found = load(Config().with_leaves(leaves).data, None)
    names = [set(split.names) for split in (found.train, found.test, found.calibration)]
    assert [len(own) for own in names] == [18, 4, 8]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]


def test_too_few_patients_for_the_level_are_one_sentence(tiny, tmp_path):
    config = tiny(**LIMITED | {"inference__risk__level": 0.05})
    words = (
        r"leaves 12 patients or images of synthetic-large to choose the threshold by, but .*level=0.05 needs 19: raise"
    )
    with pytest.raises(DataError, match=words):
        trial.run(config, None, tmp_path)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({}, "but data.calibration is 0: set it, such as 0.2"),
        (
            {"data.calibration": 0.2, "data.kind": "classes", "data.classes": {"one": 1, "two": 2}},
            "of several exclusive classes a pixel gets the most probable one",
        ),
        ({"inference.risk.metric": "fpr"}, "inference.risk.metric"),
        ({"inference.risk.level": 1.0}, "inference.risk.level"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(leaves, words):
    with pytest.raises(ConfigError, match=words):
        Config().with_leaves({"inference.risk.metric": "fnr"} | leaves)


def test_settings_that_only_a_limit_uses_are_at_their_defaults(tiny):
    assert tiny(inference__risk__level=0.3).digest == tiny().digest
    limited = tiny(**LIMITED)
    assert limited.digest == tiny(**LIMITED, inference__threshold=0.3).digest
    assert with_threshold(limited, 0.25).inference.threshold == 0.25


@pytest.mark.sampled(1)
@pytest.mark.parametrize("images", [33, 100, 120])
def test_the_calibration_images_are_the_same_whatever_else_is_held_out(images):
    """So no fingerprint, fold or proposal of a search is trained on or judged by images that choose a threshold."""
    leaves = {"data.train_images": images, "data.calibration": 0.2}
    found = [
        load(Config().with_leaves(leaves | more).data, None)
        for more in ({}, {"data.held_out": 0.2}, {"data.held_out": 0.2, "data.fold": 1}, {"data.held_out": 0.4})
    ]
    kept = set(found[0].calibration.names)
    for one in found:
        assert set(one.calibration.names) == kept
        assert not kept & {*one.train.names, *one.test.names}
