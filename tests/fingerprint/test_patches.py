"""The mask error estimated without training, for masks whose best predictor is known."""

import numpy as np
import pytest
import torch
from conftest import split_of

from diffseg.config import Config
from diffseg.data import Dataset
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


def config(size):
    leaves = {"experiment": "e3", "data.size": size, "diffusion.schedule": "cosine", "diffusion.input_scale": 0.1}
    return Config().with_leaves(leaves | {"training.batch": 16, "inference.timesteps": 25}).resolved()


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


def test_the_estimate_is_repeatable_and_has_the_levels_that_e3_measures():
    draw = np.random.default_rng(0)
    masks = dataset(*draw.integers(0, 2, (2, 8, 16, 16)))
    one, other = (estimate_mask_error(masks, config(16)) for _ in range(2))
    assert one == other
    assert [row["t"] for row in one] == pytest.approx(np.arange(1, 26) / 25)
    assert all(row["step"] == 0 for row in one)
