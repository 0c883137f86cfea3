"""Intervals and tests against closed forms and against what they promise on simulated data."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import area_under_curve, estimate, holm, resampled_means, steps_to, verdict


def simulated(draw, seeds, images, of_seeds, of_images, noise, mean=0.0):
    return (
        mean
        + draw.normal(0, of_seeds, (seeds, 1))
        + draw.normal(0, of_images, (1, images))
        + draw.normal(0, noise, (seeds, images))
    )


@pytest.mark.parametrize(
    ("seeds", "images", "spread"),
    [
        (5, 1, (1, 0, 0)),
        (1, 40, (0, 1, 0)),
        pytest.param(5, 100, (0.1, 1, 1), marks=pytest.mark.slow),
        (5, 40, (1, 1, 1)),
        (3, 60, (1, 0.1, 0)),
        (3, 20, (0, 0, 1)),
    ],
)
def test_the_interval_covers_as_often_as_it_says(seeds, images, spread):
    draw, covered = np.random.default_rng(1), 0
    for _ in range(400):
        found = estimate(simulated(draw, seeds, images, *spread, mean=0.3))
        covered += found.low <= 0.3 <= found.high
    assert covered / 400 >= 0.92, covered / 400
    if spread != (0, 0, 1):  # noise alone is counted for seeds and for images
        assert covered / 400 <= 0.985


def test_of_one_column_it_is_students_interval():
    values = np.random.default_rng(0).normal(1, 2, (8, 1))
    found = estimate(values)
    low, high = stats.t.interval(0.95, 7, values.mean(), stats.sem(values[:, 0]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))  # but for the resampling
    assert found.p == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue, abs=0.02)
    assert found.effect == pytest.approx(values.mean() / values.std(ddof=1))


def test_resampling_has_the_variance_of_its_closed_form():
    values = np.random.default_rng(0).normal(size=(6, 50))
    image, seed = values.mean(0).var() / 50, values.mean(1).var() / 6
    both = (values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()).var() / 300
    assert resampled_means(values).var() == pytest.approx(image + seed + both, rel=0.15)


def test_a_difference_is_found_or_said_not_to_be_in_those_words():
    draw = np.random.default_rng(0)
    same = [estimate(simulated(draw, 5, 50, 0.1, 1, 1)).p for _ in range(200)]
    assert np.mean(np.array(same) < 0.05) <= 0.08
    clear = estimate(simulated(draw, 5, 50, 0.1, 1, 1, mean=1.0))
    assert verdict(clear.mean, clear.p, larger_is_better=True) == "better"
    assert verdict(clear.mean, clear.p, larger_is_better=False) == "worse"
    assert verdict(0.1, 0.2, larger_is_better=True) == "no evidence of a difference"


def test_one_value_and_equal_values_say_what_they_can():
    alone = estimate(np.array([[0.3]]))
    assert alone.mean == 0.3
    assert np.isnan([alone.low, alone.p]).all()
    assert verdict(alone.mean, alone.p, True) == "not tested: one value each"
    equal = estimate(np.zeros((3, 4)))
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    assert estimate(np.ones((3, 4))).p == 0


def test_holms_correction_is_that_of_the_book():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert holm(np.array([0.01, np.nan, 0.04])) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert len(holm(np.array([]))) == 0


def test_curves_have_the_area_and_the_crossing_of_their_lines():
    steps, values = np.array([0, 100, 300]), np.array([0.0, 0.5, 0.9])
    assert area_under_curve(steps, values) == pytest.approx((100 * 0.25 + 200 * 0.7) / 300)
    assert steps_to(0.7, steps, values) == pytest.approx(200)
    assert steps_to(0.0, steps, values) == 0
    assert steps_to(0.95, steps, values) == np.inf
