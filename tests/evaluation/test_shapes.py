"""Distances between contours, boundary IoU, and objects."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluated_images import compute, config_of, image_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffseg.evaluation.bands import inner_band

SHAPES = ("nsd", "hd95", "assd", "boundary_iou", "object_precision", "object_recall", "object_f1", "panoptic_quality")
SYMMETRIC = ("nsd", "hd95", "assd", "boundary_iou", "object_f1", "panoptic_quality")
MASKS = arrays(bool, (7, 9))
SPACINGS = st.sampled_from([None, (1.0, 1.0), (0.7, 2.5)])


def pair_of(predicted, true, spacing=None, instances=None, **leaves):
    """An image of one class with a predicted mask and a true one."""
    predicted, true = (torch.as_tensor(np.asarray(mask, bool)) for mask in (predicted, true))
    config = config_of(**leaves)
    return image_of(predicted.float(), true[None], config, spacing=spacing, instances=instances)


def measured(predicted, true, *args, **known):
    image = pair_of(predicted, true, *args, **known)
    return {name: compute(name, image) for name in SHAPES}


def blobs(seed, size=(48, 40)):
    from scipy.ndimage import gaussian_filter

    draw = np.random.default_rng(seed)
    field = gaussian_filter(draw.normal(size=size), 3)
    return field > 0.03, field + 0.4 * gaussian_filter(draw.normal(size=size), 3) > 0.03


@settings(max_examples=30)
@given(st.integers(0, 10**6), SPACINGS, st.sampled_from([0.5, 1.6, 3.3]))
def test_distances_match_monai(seed, spacing, tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import (
            compute_average_surface_distance,
            compute_hausdorff_distance,
            compute_surface_dice,
        )
    predicted, true = blobs(seed)
    found = measured(predicted, true, spacing, inference__nsd_tolerance=tolerance)
    both = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    known = {"include_background": True, "spacing": spacing}
    expected = {
        "nsd": compute_surface_dice(*both, class_thresholds=[tolerance], **known),
        "hd95": compute_hausdorff_distance(*both, percentile=95, **known),
        "assd": compute_average_surface_distance(*both, symmetric=True, **known),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name


def test_distances_of_squares_have_their_closed_form():
    """A square of 4 and one of 4 that lies 3 columns further: contours of 12 pixels each."""
    predicted, true = np.zeros((2, 12, 16), bool)
    predicted[4:8, 2:6], true[4:8, 5:9] = True, True
    found = measured(predicted, true, inference__nsd_tolerance=1.0)
    one_way = np.array(
        [3, 2, 1, 0] * 2 + [3, 3, 0, 0]
    )  # of the top and the bottom row, and of the rest of both columns
    within = (one_way <= 1).mean()
    assert found["nsd"] == pytest.approx(within)
    assert found["assd"] == pytest.approx(one_way.mean())
    assert found["hd95"] == pytest.approx(np.quantile(one_way, 0.95))
    exact = measured(predicted, true, (0.1, 0.1), inference__nsd_tolerance=0.3)  # 3 × 0.1 is rounded up
    assert exact["nsd"] == 1
    assert exact["hd95"] == pytest.approx(found["hd95"] / 10)


def cheng_boundary(mask, width):
    """The boundary of Cheng et al. (2021): the mask without itself eroded by a square, with nothing around the image."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_the_boundary_iou_is_that_of_cheng(seed, width):
    predicted, true = blobs(seed)
    ours = [inner_band(torch.from_numpy(mask), width).numpy() for mask in (predicted, true)]
    theirs = [cheng_boundary(mask, width) for mask in (predicted, true)]
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    one = [cheng_boundary(mask, round(0.02 * math.hypot(48, 40))) for mask in (predicted, true)]
    expected = (one[0] & one[1]).sum() / (one[0] | one[1]).sum()
    assert compute("boundary_iou", pair_of(predicted, true)) == pytest.approx(expected)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_objects_match_monai(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_panoptic_quality
    from skimage.measure import label

    predicted, true = blobs(seed, (64, 64))
    ours, theirs = (torch.from_numpy(label(mask, connectivity=2)) for mask in (predicted, true))
    found = measured(predicted, true)
    for name, known in (("panoptic_quality", "pq"), ("object_f1", "rq")):
        value = compute_panoptic_quality(ours, theirs, metric_name=known, match_iou_threshold=0.5)
        assert found[name] == pytest.approx(float(value), abs=1e-5), name
    pairs = [
        (i, j)
        for i in range(1, int(ours.max()) + 1)
        for j in range(1, int(theirs.max()) + 1)
        if ((ours == i) & (theirs == j)).sum() / ((ours == i) | (theirs == j)).sum() > 0.5
    ]
    assert found["object_precision"] == pytest.approx(len(pairs) / int(ours.max()))
    assert found["object_recall"] == pytest.approx(len(pairs) / int(theirs.max()))


def test_annotated_objects_that_touch_are_told_apart():
    predicted, true = np.zeros((2, 8, 12), bool)
    true[2:6, 2:10] = True
    predicted[2:6, 2:6] = True
    numbers = np.zeros((8, 12), np.uint16)
    numbers[2:6, 2:6], numbers[2:6, 6:10], numbers[0, 0] = 40000, 7, 9  # the last is outside of the mask
    as_one, apart = measured(predicted, true), measured(predicted, true, None, numbers)
    assert (as_one["object_f1"], as_one["object_recall"]) == (0, 0)  # an IoU of exactly 0.5 is no match
    assert apart["object_precision"] == 1
    assert apart["object_recall"] == 0.5
    assert apart["object_f1"] == pytest.approx(2 / 3)
    assert apart["panoptic_quality"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("spacing", [None, (0.5, 3.0)])
def test_a_missed_object_is_the_worst_and_nothing_against_nothing_is_perfect(spacing):
    empty, full = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    full[1:3, 2:4] = True
    perfect = {name: 0 if name in ("hd95", "assd") else 1 for name in SHAPES}
    assert measured(empty, empty, spacing) == perfect
    assert measured(full, full, spacing) == perfect
    diagonal = math.hypot(6 * (spacing or (1, 1))[0], 8 * (spacing or (1, 1))[1])
    for pair in ((empty, full), (full, empty)):
        found = measured(*pair, spacing)
        assert found == {name: diagonal if name in ("hd95", "assd") else 0 for name in SHAPES}


@settings(max_examples=60)
@given(MASKS, MASKS, SPACINGS)
def test_metrics_of_shapes_are_in_their_range_and_symmetric(predicted, true, spacing):
    found, turned = measured(predicted, true, spacing), measured(true, predicted, spacing)
    diagonal = math.hypot(*np.multiply((7, 9), spacing or (1, 1)))
    for name in SHAPES:
        assert 0 <= found[name] <= (diagonal if name in ("hd95", "assd") else 1)
    for name in SYMMETRIC:
        assert found[name] == pytest.approx(turned[name])
    assert found["object_precision"] == turned["object_recall"]
    assert found["assd"] <= diagonal
    assert found["panoptic_quality"] <= found["object_f1"] + 1e-12


@settings(max_examples=20)
@given(MASKS, MASKS, st.integers(0, 5), st.integers(0, 5))
def test_shapes_are_measured_alike_wherever_they_lie(predicted, true, below, right):
    """The crop around both masks changes nothing, but for the band of the boundary IoU, which follows the image's size."""
    moved = [np.pad(mask, ((5 - below, below), (5 - right, right))) for mask in (predicted, true)]
    found, again = measured(*moved), measured(*(np.pad(mask, ((5, 0), (5, 0))) for mask in (predicted, true)))
    assert found == pytest.approx(again)


def test_a_larger_tolerance_never_lowers_the_nsd():
    predicted, true = blobs(3)
    values = [measured(predicted, true, inference__nsd_tolerance=tolerance)["nsd"] for tolerance in (0, 1, 2, 5, 99)]
    assert values == sorted(values)
    assert values[-1] == 1


def test_masks_of_each_class_are_compared_with_their_own():
    predicted, true = blobs(5)
    other = np.roll(true, 7, 1)
    image = image_of(
        torch.from_numpy(np.stack([predicted, other & ~predicted])).float(),
        torch.from_numpy(np.stack([true, other & ~true]))[None],
    )
    single = [pair_of(predicted, true), pair_of(other & ~predicted, other & ~true)]
    for k, alone in enumerate(single):
        for name in SHAPES:
            assert compute(name, image, k) == pytest.approx(compute(name, alone))
    ignoring = replace(image, valid=torch.zeros(48, 40, dtype=torch.bool).index_fill_(0, torch.arange(20), True))
    cut = pair_of(predicted[:20], true[:20])
    for name in ("nsd", "assd", "object_f1"):
        assert compute(name, ignoring) == pytest.approx(compute(name, cut))
