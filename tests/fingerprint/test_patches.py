"""The mask error estimated without training, for masks whose best predictor is known."""

import numpy as np
import pytest
import torch
from conftest import split_of

from diffseg.config import Config
from diffseg.data import Dataset
from diffseg.errors import UserError
from diffseg.fingerprint import quick as patches
from diffseg.fingerprint.curve import compute_fingerprint
from diffseg.fingerprint.quick import estimate_mask_error


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Use few examples and queries, for speed."""
    for name, count in (("EXAMPLES", 1024), ("MASKS", 64), ("QUERIES", 256), ("WINDOWS", 64)):
        monkeypatch.setattr(patches, name, count)


def split(masks):
    """Return a split of masks [N, S, S] of 0 and 1."""
    masks = list(torch.as_tensor(masks, dtype=torch.uint8)[:, None])
    return split_of([mask.expand(3, -1, -1) for mask in masks], masks)


def dataset(train, test):
    return Dataset("masks", "0", split(train), split(test))


def config(size, **more):
    leaves = {"experiment": "e3", "data.size": size, "diffusion.schedule": "cosine", "diffusion.input_scale": 0.1}
    return Config().with_leaves(leaves | {"training.batch": 16, "inference.timesteps": 25} | more).resolved()


def mmse(snr):
    """Return the mmse of a fair bit x of −1 or 1: E (x − tanh(SNR + √SNR z))² = 1 − E tanh(SNR + √SNR z)."""
    z, w = np.polynomial.hermite_e.hermegauss(101)
    return 1 - np.tanh(snr + np.sqrt(snr) * z) @ (w / w.sum())


def test_constant_masks_are_decided_as_one_bit():
    """The SNR of N equal pixels is N times a pixel's, so the derivative lies at a log-SNR lower by ln N."""
    masks = np.stack([np.zeros((16, 16)), np.ones((16, 16))])
    rows = estimate_mask_error(dataset(masks, masks), config(16))
    for row in rows:
        assert row["mask_error"] == pytest.approx(mmse(min(256 * np.exp(row["log_snr"]), 50.0)), abs=0.1)
    assert compute_fingerprint([rows], "mask-error").summary()["half"] == pytest.approx(-0.3 - np.log(256), abs=0.5)


def test_independent_pixels_are_decided_one_by_one():
    draw = np.random.default_rng(0)
    train, test = draw.integers(0, 2, (2, 64, 24, 24))
    rows = estimate_mask_error(dataset(train, test), config(24))
    for row in rows:
        if row["log_snr"] < 0:  # beyond, the nine pixels around are not always among the examples
            assert row["mask_error"] == pytest.approx(mmse(np.exp(row["log_snr"])), abs=0.1)


@pytest.mark.parametrize("count", [2, 7, 25, 50])
def test_the_least_of_all_predictors_is_found_though_not_all_are_asked_everywhere(count):
    """Predictors become best in their order, several of them within a few levels, and each class by its own."""
    levels, asked = torch.linspace(8, -20, count), []

    def predictor(place, steepness):
        def predict(some):
            asked.append(len(some))
            risen = torch.sigmoid(steepness * (torch.tensor([0.0, -2.0]) - some[:, None] - place))
            return (1 - 0.05 * place) * risen + 0.01 * place

        return predict

    predictors = [predictor(place, 3.0 - 0.5 * place) for place in (0.0, 1.0, 2.0, 3.0, 4.0)]
    every = torch.stack([predict(levels) for predict in predictors]).amin(0)
    asked.clear()
    found = patches._find_least_errors(predictors, levels, lambda: None)
    torch.testing.assert_close(found, every)
    assert sum(asked) <= len(predictors) * count
    assert count < 50 or sum(asked) < 0.7 * len(predictors) * count


def test_the_estimate_is_repeatable_and_has_the_levels_that_e3_measures():
    draw = np.random.default_rng(0)
    masks = dataset(*draw.integers(0, 2, (2, 8, 16, 16)))
    one, other = (estimate_mask_error(masks, config(16)) for _ in range(2))
    assert one == other
    assert [row["t"] for row in one] == pytest.approx(np.arange(1, 26) / 25)
    assert all(row["step"] == 0 for row in one)


REGIONS = {"data.classes": {"a": [1, 3], "b": [2, 3]}, "data.regions": True}
TWO = {"data.classes": {"a": 1, "b": 2}}


def curves(rows):
    """Return the mask errors by class, and the log-SNRs."""
    names = dict.fromkeys(row["class"] for row in rows)
    found = {name: np.array([row["mask_error"] for row in rows if row["class"] == name]) for name in names}
    return found, np.array([row["log_snr"] for row in rows[:25]])


def constant(*numbers, size=16):
    """Return masks [N, S, S] of one number each."""
    return np.stack([np.full((size, size), number) for number in numbers])


def mmse_of_one_in(count, snr, channels):
    """Return the mmse in ±1 of one channel of a fair choice of `count` classes, each with a channel of ±1, and background."""
    codes = 2 * np.eye(count)[:, :channels] - 1
    noise = np.random.default_rng(0).standard_normal((4000, channels))
    found = []
    for code in codes:
        x = np.sqrt(snr) * code + noise
        likeness = np.sqrt(snr) * x @ codes.T
        share = np.exp(likeness - likeness.max(1, keepdims=True))
        found.append(((share / share.sum(1, keepdims=True)) @ codes[:, 0] - code[0]) ** 2)
    return np.mean(found)


def test_a_single_class_is_what_a_binary_mask_is():
    """Bit for bit, whatever its name and value."""
    draw = np.random.default_rng(0)
    masks = dataset(*draw.integers(0, 2, (2, 8, 16, 16)))
    assert estimate_mask_error(masks, config(16, **{"data.classes": {"tumour": 7}})) == estimate_mask_error(
        masks, config(16)
    )


@pytest.fixture
def many(monkeypatch):
    """Use many test masks: constant ones have one noise each that matters."""
    monkeypatch.setattr(patches, "WINDOWS", 1024)
    monkeypatch.setattr(patches, "QUERIES", 1024)


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_independent_regions_are_decided_as_one_bit_each():
    masks = constant(0, 1, 2, 3)
    found, levels = curves(estimate_mask_error(dataset(masks, masks), config(16, **REGIONS)))
    wanted = [mmse(min(256 * np.exp(level), 50.0)) for level in levels]
    assert list(found) == ["all", "a", "b"]
    assert found["a"] == pytest.approx(wanted, abs=0.1)
    assert found["b"] == pytest.approx(wanted, abs=0.1)
    assert found["all"] == pytest.approx((found["a"] + found["b"]) / 2)


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_exclusive_classes_are_decided_by_the_channels_of_all():
    masks = constant(1, 2, 0)
    found, levels = curves(estimate_mask_error(dataset(masks, masks), config(16, **TWO)))
    wanted = [mmse_of_one_in(3, min(256 * np.exp(level), 50.0), 3) for level in levels]
    assert found["a"] == pytest.approx(wanted, abs=0.12)
    assert found["b"] == pytest.approx(wanted, abs=0.12)


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_the_coding_decides_what_the_predictor_sees():
    """0 and 1 are half as far from each other as −1 and 1, which is a log-SNR lower by ln 4."""
    masks = constant(0, 1)
    rows = estimate_mask_error(dataset(masks, masks), config(16, **{"diffusion.coding": "01"}))
    found, levels = curves(rows)
    assert found["all"] == pytest.approx([mmse(min(64 * np.exp(level), 50.0)) for level in levels], abs=0.1)


@pytest.mark.parametrize("coding", ["pm1", "01", "bits", "sdf"])
def test_every_coding_gives_a_curve_from_nothing_lost_to_everything(coding):
    masks = np.zeros((8, 16, 16), int)
    for place, mask in enumerate(masks):
        mask[place : place + 8, 3:12] = 1
        mask[place + 2 : place + 6, 5:9] = 2
    rows = estimate_mask_error(dataset(masks, masks), config(16, **TWO, **{"diffusion.coding": coding}))
    for name in ("all", "a", "b"):
        one = compute_fingerprint([rows], "mask-error", name)
        assert np.isfinite(one.error).all()
        assert one.error[0] < 0.1 * one.limit
        assert one.summary()["kept"] > one.summary()["half"] > one.summary()["lost"]


@pytest.mark.sampled(1)
@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("classes", [{}, {"data.classes": {"a": 1}}, {"data.classes": {"a": 1, "b": 3}}])
def test_ignored_pixels_count_in_no_error(classes):
    """The right half is ignored, whatever it holds, so that a mask is decided as a bit of half as many pixels."""
    masks = constant(0, 1)
    masks[:, :, 8:] = 255
    found, levels = curves(estimate_mask_error(dataset(masks, masks), config(16, **classes, **{"data.ignore": [9]})))
    channels = 2 if "b" in str(classes) else 1  # the classes a and background tell the same, by two channels
    wanted = np.array([mmse(min(128 * channels * np.exp(level), 50.0)) for level in levels])
    assert found.get("a", found["all"]) == pytest.approx(wanted, abs=0.1)


def test_masks_of_which_all_pixels_are_ignored_are_refused():
    known, ignored = constant(0, 1), constant(255, 255)
    with pytest.raises(UserError, match=r"data set masks: all pixels .* are ignored ones"):
        estimate_mask_error(dataset(known, ignored), config(16, **{"data.ignore": [9]}))
