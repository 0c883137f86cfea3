import math
import warnings

import numpy as np
import pytest
import torch
from evaluated_images import calibration_of, image_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffseg.evaluation.calibration import calibration_errors
from diffseg.evaluation.metrics import brier, nll, overlap


def random_maps(seed, shape=(24, 24)):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=draw), torch.rand(shape, generator=draw) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_overlap_matches_monai(seed):
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
def test_overlap_of_any_masks_matches_sets(a, b):
    iou, dice = (float(x) for x in overlap(torch.from_numpy(a), torch.from_numpy(b)))
    union, both = (a | b).sum(), (a & b).sum()
    assert iou == pytest.approx(both / union if union else 1)
    assert dice == pytest.approx(2 * iou / (1 + iou))


@pytest.mark.parametrize("seed", range(3))
def test_pooled_ece_matches_torchmetrics(seed):
    from torchmetrics.functional.classification import binary_calibration_error

    maps = [random_maps(seed + 10 * k) for k in range(4)]
    calibration = calibration_of(*(image_of(probability, mask[None]) for probability, mask in maps))
    pooled = [torch.cat([m[i].flatten() for m in maps]) for i in range(2)]
    assert calibration.ece() == pytest.approx(
        float(binary_calibration_error(pooled[0], pooled[1].int(), n_bins=10)), abs=1e-6
    )
    rows = calibration.rows()
    assert sum(row["count"] for row in rows) == len(pooled[0])
    assert all(row["bin"] / 10 <= row["confidence"] <= (row["bin"] + 1) / 10 for row in rows)


def test_a_probability_of_one_is_in_the_last_bin():
    calibration = calibration_of(image_of(torch.tensor([[0.0, 1.0, 0.95]]), torch.tensor([[[0, 1, 1]]])))
    rows = calibration.rows()
    assert [(row["bin"], row["count"]) for row in rows] == [(0, 1), (9, 2)]
    assert calibration.ece() == pytest.approx(0.05 / 3)


@pytest.mark.parametrize("raters", [1, 3])
def test_the_calibration_of_images_adds_up_to_the_pooled_one(raters):
    images = [
        image_of(random_maps(seed)[0], torch.stack([random_maps(seed + 10 * k)[1] for k in range(raters)]))
        for seed in range(5)
    ]
    calibration, single = calibration_of(*images), [calibration_of(image) for image in images]
    rows = calibration.rows()
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    for image, one in enumerate(single):
        ours = [row | {"image": 0} for row in rows if row["image"] == image]
        assert [row.keys() for row in ours] == [row.keys() for row in one.rows()]
        for row, other in zip(ours, one.rows(), strict=True):
            assert row == pytest.approx(other, abs=1e-9)
    gaps = [sum(r["count"] * (r["confidence"] - r["accuracy"]) for r in rows if r["bin"] == b) for b in range(10)]
    assert sum(map(abs, gaps)) / sum(row["count"] for row in rows) == pytest.approx(calibration.ece(), abs=1e-12)


@given(st.integers(0, 1000), st.integers(1, 30))
def test_brier_and_nll_match_their_formulas_and_are_finite(seed, members):
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


def disc(size=64, radius=12, centre=(30, 34)):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize("seed", range(3))
def test_the_ece_of_a_region_is_computed_from_its_pixels_only(seed):
    from scipy.ndimage import binary_dilation, binary_erosion

    mask = disc()
    probability = (0.7 * mask + 0.4 * random_maps(seed, mask.shape)[0]).clamp(0, 1)
    prediction = probability > 0.5
    reach = round(0.02 * math.hypot(64, 64))
    square = np.ones((2 * reach + 1, 2 * reach + 1))
    outer = binary_dilation(mask.numpy(), square)
    band = outer & ~binary_erosion(mask.numpy(), square, border_value=1)
    parts = {"image": np.ones_like(outer), "boundary": band, "foreground": outer | prediction.numpy()}
    assert 0 < band.sum() < outer.sum()
    for name, part in parts.items():
        inside = torch.from_numpy(part)
        calibration = calibration_of(image_of(probability[inside][None], mask[inside][None, None]))
        found = calibration_errors(probability, prediction, mask)[f"ece_{name}"]
        assert float(found) == pytest.approx(calibration.ece(), abs=1e-12)


def test_without_foreground_the_ece_of_the_boundary_is_nan():
    empty = torch.zeros(16, 16, dtype=torch.bool)
    found = calibration_errors(torch.full((16, 16), 0.2), empty, empty)
    assert float(found["ece_image"]) == pytest.approx(0.2)
    assert math.isnan(found["ece_boundary"])
    assert math.isnan(found["ece_foreground"])
