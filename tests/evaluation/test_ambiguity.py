import itertools
import math

import numpy as np
import pytest
import torch
from evaluated_images import compute, random_image
from hypothesis import given
from hypothesis import strategies as st

from diffseg.evaluation.ambiguity import (
    collective_insight,
    distances,
    energy_distance_of_fewer,
    ged,
    hungarian_matched_iou,
    iou_matrix,
    maximum_dice,
    ncc,
)


def masks(count, seed=0, size=6):
    return torch.rand(count, size, size, generator=torch.Generator().manual_seed(seed)) < 0.4


def iou(a, b):
    either = (a | b).sum()
    return 1.0 if either == 0 else float((a & b).sum() / either)


def test_the_matrix_has_the_iou_of_every_pair_and_empty_against_empty_is_one():
    a, b = masks(3), masks(4, 1)
    a[0] = b[1] = False
    expected = [[iou(x, y) for y in b] for x in a]
    assert torch.allclose(iou_matrix(a, b), torch.tensor(expected, dtype=torch.float64))
    assert iou_matrix(a, b)[0, 1] == 1


def test_ged_matches_its_formula():
    samples, raters = masks(5), masks(3, 1)
    cross = sum(1 - iou(s, y) for s in samples for y in raters) / 15
    among = sum(1 - iou(s, t) for s in samples for t in samples)
    truth = sum(1 - iou(x, y) for x in raters for y in raters) / 9
    biased, unbiased = ged(samples, raters)
    assert biased == pytest.approx(2 * cross - among / 25 - truth)
    assert unbiased == pytest.approx(2 * cross - among / 20 - truth)
    assert math.isnan(ged(samples[:1], raters)[1])


def test_a_perfect_model_has_an_unbiased_ged_of_zero_and_the_known_bias():
    """Samples are drawn from the raters themselves: the mean of the V-statistic is E d(Y, Y′)/n, that of the U-statistic 0."""
    raters, n = masks(4, 2), 4
    truth = float((1 - iou_matrix(raters, raters)).mean())
    found = [ged(raters[list(drawn)], raters) for drawn in itertools.product(range(4), repeat=n)]
    biased, unbiased = (sum(values) / len(found) for values in zip(*found, strict=True))
    assert biased == pytest.approx(truth / n)
    assert unbiased == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 500), st.integers(1, 5), st.integers(1, 4))
def test_ged_of_the_raters_themselves_is_zero_and_never_negative(seed, n, m):
    raters = masks(m, seed)
    assert ged(raters.repeat(n, 1, 1), raters)[0] == pytest.approx(0, abs=1e-9)
    assert ged(masks(n, seed + 1), raters)[0] >= -1e-9


def test_matching_is_the_best_of_all_permutations():
    samples, raters = masks(4), masks(4, 1)
    best = max(
        sum(iou(samples[i], raters[j]) for i, j in enumerate(order)) / 4 for order in itertools.permutations(range(4))
    )
    assert hungarian_matched_iou(iou_matrix(samples, raters)) == pytest.approx(best)


def test_matching_repeats_to_the_least_common_multiple():
    raters = masks(2, 3)
    assert hungarian_matched_iou(iou_matrix(raters[[0, 1, 1]], raters)) == pytest.approx((5 + iou(*raters)) / 6)
    assert hungarian_matched_iou(iou_matrix(raters[[0, 1, 0, 1]], raters)) == pytest.approx(1)


def test_ncc_is_high_where_samples_vary_as_raters_do():
    half = torch.zeros(2, 4, 4, dtype=torch.bool)
    half[0, :2] = True  # sample and rater agree below and are split above
    assert ncc(half, half) == pytest.approx(ncc(half, half.flip(0)))
    assert ncc(half, half[:1]) > 0.9
    off = torch.zeros(2, 4, 4, dtype=torch.bool)
    off[0, 2:] = True
    assert ncc(half, half[:1]) > ncc(off, half[:1])
    assert math.isnan(ncc(half[:1].repeat(2, 1, 1) & False, half & False))


def test_ged_of_fewer_samples_uses_the_first_ones():
    samples, raters = masks(8), masks(3, 1)
    found = energy_distance_of_fewer(*distances(samples, raters))
    for count in (2, 4):
        biased, unbiased = map(float, ged(samples[:count], raters))
        assert found[f"ged_{count}"] == pytest.approx(biased, abs=1e-12)
        assert found[f"ged_unbiased_{count}"] == pytest.approx(unbiased, abs=1e-12)
    assert "ged_8" not in found
    assert not energy_distance_of_fewer(*distances(samples[:2], raters))


def dice(a, b):
    return 1.0 if not (a | b).any() else float(2 * (a & b).sum() / (a.sum() + b.sum()))


@given(st.integers(0, 500), st.integers(1, 5), st.integers(1, 4))
def test_collective_insight_matches_its_formula(seed, n, m):
    samples, raters = masks(n, seed), masks(m, seed + 1)
    if seed % 5 == 0:
        samples[0] = raters[0] = False
    best = sum(max(dice(s, y) for s in samples) for y in raters) / m
    assert maximum_dice(samples, raters) == pytest.approx(best)
    union, found = raters.any(0), samples.any(0)
    sensitivity = float((union & found).sum() / union.sum()) if union.any() else 1.0
    variances = [[np.var(a.int().numpy() - b.int().numpy()) for a in own for b in own] for own in (samples, raters)]
    spread = abs(max(variances[0]) - max(variances[1])) + abs(min(variances[0]) - min(variances[1]))
    agreement = 1 - spread / 2
    expected = 3 * sensitivity * best * agreement / (sensitivity + best + agreement)
    assert collective_insight(samples, raters) == pytest.approx(expected)
    assert 0 <= collective_insight(samples, raters) <= 1


def test_collective_insight_of_the_raters_themselves_and_of_nothing():
    raters = masks(3, 4)
    empty = torch.zeros_like(raters)
    assert collective_insight(raters, raters) == pytest.approx(1)
    assert collective_insight(empty, empty) == pytest.approx(1)
    assert collective_insight(empty, raters) == 0
    assert maximum_dice(empty, raters) == 0


def test_metrics_that_match_samples_with_raters_take_the_mean_iou_over_the_classes():
    image = random_image(11, classes=2, raters=3, samples=3)
    samples, raters = image.prediction.masks, image.raters
    cost = np.array([[1 - sum(iou(s[k], y[k]) for k in range(2)) / 2 for y in raters] for s in samples])
    among, truth = (
        np.mean([[1 - sum(iou(a[k], b[k]) for k in range(2)) / 2 for b in own] for a in own])
        for own in (samples, raters)
    )
    assert compute("ged", image) == pytest.approx(2 * cost.mean() - among - truth)
    best = max(np.mean([1 - cost[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(3)))
    assert compute("hm_iou", image) == pytest.approx(best)
    for name, formula in (("ncc", ncc), ("d_max", maximum_dice), ("ci", collective_insight)):
        for k in range(2):
            assert compute(name, image, k) == pytest.approx(float(formula(samples[:, k], raters[:, k])))
