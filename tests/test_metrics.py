import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffseg.metrics import Calibration, brier, nll, overlap


def random_maps(seed, shape=(24, 24)):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=draw), torch.rand(shape, generator=draw) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_monais(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_dice, compute_iou
    probability, mask = random_maps(seed)
    prediction = probability > 0.6
    iou, dice = overlap(prediction, mask)
    batch = [x[None, None].float() for x in (prediction, mask)]
    assert float(iou) == pytest.approx(float(compute_iou(*batch, ignore_empty=False)), rel=1e-6)
    assert float(dice) == pytest.approx(float(compute_dice(*batch, ignore_empty=False)), rel=1e-6)


def test_empty_against_empty_is_one_and_against_anything_else_zero():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert [float(x) for x in overlap(empty, empty)] == [1, 1]
    assert [float(x) for x in overlap(empty, full)] == [0, 0]
    assert [float(x) for x in overlap(full, empty)] == [0, 0]


@settings(max_examples=50)
@given(arrays(bool, (3, 3)), arrays(bool, (3, 3)))
def test_overlap_of_any_masks_is_that_of_sets(a, b):
    iou, dice = (float(x) for x in overlap(torch.from_numpy(a), torch.from_numpy(b)))
    union, both = (a | b).sum(), (a & b).sum()
    assert iou == pytest.approx(both / union if union else 1)
    assert dice == pytest.approx(2 * iou / (1 + iou))


@pytest.mark.parametrize("seed", range(3))
def test_ece_is_torchmetrics_pooled(seed):
    from torchmetrics.functional.classification import binary_calibration_error

    maps = [random_maps(seed + 10 * k) for k in range(4)]
    calibration = Calibration("cpu")
    for probability, mask in maps:
        calibration.add(probability, mask)
    pooled = [torch.cat([m[i].flatten() for m in maps]) for i in range(2)]
    assert calibration.ece() == pytest.approx(
        float(binary_calibration_error(pooled[0], pooled[1].int(), n_bins=10)), abs=1e-6
    )
    rows = calibration.rows()
    assert sum(row["count"] for row in rows) == len(pooled[0])
    assert all(row["bin"] / 10 <= row["confidence"] <= (row["bin"] + 1) / 10 for row in rows)


def test_ends_of_the_bins():
    calibration = Calibration("cpu")
    calibration.add(torch.tensor([0.0, 1.0, 0.95]), torch.tensor([0, 1, 1]))
    rows = calibration.rows()
    assert [row["count"] for row in rows] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert math.isnan(rows[4]["accuracy"])
    assert calibration.ece() == pytest.approx(0.05 / 3)


@given(st.integers(0, 1000), st.integers(1, 30))
def test_brier_and_nll_are_their_formulas_and_finite(seed, members):
    _, mask = random_maps(seed, (6, 6))
    votes = np.random.default_rng(seed).integers(0, members + 1, (6, 6)) / members  # what an ensemble can say
    p = torch.from_numpy(votes)
    y = mask.double().numpy()
    assert float(brier(p, mask)) == pytest.approx(((votes - y) ** 2).mean())
    clipped = np.clip(votes, 0.5 / (members + 1), (members + 0.5) / (members + 1))
    expected = -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped)).mean()
    assert float(nll(p, mask, members)) == pytest.approx(expected)
    assert math.isfinite(expected)
    assert float(nll(torch.ones(2, 2), torch.zeros(2, 2), None)) == pytest.approx(-math.log(1e-6))
    assert float(nll(torch.full((2, 2), 0.1), torch.zeros(2, 2), None)) == pytest.approx(-math.log(0.9))
