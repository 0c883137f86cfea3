"""Intervals and tests against closed forms, against resampling, and against their nominal coverage on simulated data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    area_under_curve,
    components,
    correlation_within,
    estimate,
    holm,
    linearised_ece,
    number_groups,
    steps_to,
    verdict,
)


def geometric(seed, count=30, mean=20):
    return list(np.random.default_rng(seed).geometric(1 / mean, count))


def simulated(draw, sizes, seeds, of_groups, of_seeds, noise, mean=0.0):
    """(values [seeds, images], groups): groups of these sizes. With one seed, the truth is the mean for that seed."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    by_seed = draw.normal(0, of_seeds, (seeds, 1)) if seeds > 1 else 0.0
    values = draw.normal(0, of_groups, len(sizes))[groups] + by_seed + draw.normal(0, noise, (seeds, len(groups)))
    return mean + values, list(groups)


CASES = {  # sizes of the groups, seeds, standard deviations: of groups, of seeds, of the rest
    "10 patients of 60 slices": ([60] * 10, 3, 0.03, 0.002, 0.05),
    "30 volumes of 35 slices": ([35] * 30, 3, 0.05, 0.005, 0.15),
    "120 patients of 16 slices, one seed": ([16] * 120, 1, 0.08, 0.0, 0.2),
    "geometric sizes": (geometric(0), 3, 0.05, 0.005, 0.15),
    "geometric sizes, unlike patients": (geometric(1), 3, 0.08, 0.005, 0.05),
    "geometric sizes, one seed": (geometric(2), 1, 0.05, 0.0, 0.15),
    "geometric sizes of 10 patients": (geometric(0, 10), 5, 0.08, 0.01, 0.05),
    **{
        f"images alone, {seeds} seeds, seeds' deviation {of_seeds}": ([1] * 60, seeds, 0.1, of_seeds, 0.1)
        for seeds in (1, 3, 5)
        for of_seeds in ((0.0,) if seeds == 1 else (0.0, 0.01, 0.03, 0.1))
    },
}
QUICK = ("10 patients of 60 slices", "geometric sizes of 10 patients", "images alone, 3 seeds, seeds' deviation 0.03")


def check_coverage(case, draws, tolerance):
    draw, covered, p = np.random.default_rng(len(case)), 0, []
    for _ in range(draws):
        found = estimate(*simulated(draw, *CASES[case]))
        covered += found.low <= 0 <= found.high
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        p.append(found.p)
    assert abs(covered / draws - 0.95) <= tolerance, covered / draws
    assert stats.kstest(p, "uniform").pvalue > 0.001, covered / draws


@pytest.mark.parametrize("case", QUICK)
def test_the_interval_covers_about_as_often_as_stated(case):
    check_coverage(case, 500, 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_interval_covers_as_often_as_stated(case):
    check_coverage(case, 2500, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "at_least"),
    [
        (([1] * 60, 2, 0.1, 0.1, 0.1), 0.87),
        (([1] * 60, 2, 0.1, 0.0, 0.1), 0.95),
        (([2**k for k in range(6)], 1, 0.05, 0, 0.15), 0.9),
    ],
)
def test_two_seeds_and_one_patient_with_half_of_the_images_cover_too_seldom_but_not_much(case, at_least):
    """The limits of the method: one degree of freedom for the seeds, and a poorly known variance between patients."""
    draw = np.random.default_rng(0)
    found = [estimate(*simulated(draw, *case)) for _ in range(2000)]
    assert at_least <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98


@pytest.mark.parametrize(("sizes", "below"), [([60] * 10, 0.5), ([35] * 30, 0.8)])
def test_slices_taken_for_patients_would_cover_too_seldom(sizes, below):
    """Without groups, the interval covers about half of the time."""
    draw, of = np.random.default_rng(0), (0.03, 0.002, 0.05) if len(sizes) == 10 else (0.05, 0.005, 0.15)
    found = [estimate(simulated(draw, sizes, 3, *of)[0]) for _ in range(200)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) < below


def test_the_interval_of_one_column_is_students():
    values = np.random.default_rng(0).normal(1, 2, (8, 1))
    found = estimate(values)
    low, high = stats.t.interval(0.95, 7, values.mean(), stats.sem(values[:, 0]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue)
    assert found.effect == pytest.approx(values.mean() / values.std(ddof=1))


def test_the_interval_of_one_seed_and_equal_groups_is_students_of_their_means():
    values, groups = simulated(np.random.default_rng(0), [7] * 12, 1, 1, 0, 1, mean=0.5)
    means = values.reshape(12, 7).mean(1)
    found = estimate(values, groups)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 11, means.mean(), stats.sem(means)))
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_groups_of_one_image_and_images_without_a_group_are_the_same():
    values, _ = simulated(np.random.default_rng(0), [1] * 20, 3, 1, 1, 1)
    plain = estimate(values)
    for groups in ([f"p{k}" for k in range(20)], [None] * 20, [float("nan")] * 20, [None, *range(19)]):
        assert estimate(values, groups) == plain


def test_groups_are_numbered_in_order_and_images_without_one_are_their_own():
    assert number_groups(["b", None, "a", "b", None], 5).tolist() == [0, 1, 2, 0, 3]
    assert number_groups(None, 3).tolist() == [0, 1, 2]


def test_one_group_leaves_the_variance_of_seeds_and_one_seed_that_of_groups():
    values, _ = simulated(np.random.default_rng(0), [9], 4, 1, 1, 1)
    (only,) = components(values, ["a"] * 9)
    assert only.freedom == 3
    assert only.variance == pytest.approx(values.mean(1).var(ddof=1) / 4)
    assert np.isnan(estimate(values[:1], ["a"] * 9).p)
    assert [part.freedom for part in components(values[:1], list(range(9)))] == [8]


@given(st.integers(0, 10_000), st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_an_interval_does_not_depend_on_order_and_follows_scale_and_shift(seed, seeds, sizes):
    draw = np.random.default_rng(seed)
    values, groups = simulated(draw, sizes, seeds, 1.0, 0.5, 1.0, mean=0.3)
    found = estimate(values, groups)
    assert found.mean == pytest.approx(values.mean())
    if seeds == len(sizes) == 1:
        assert np.isnan(found.p)
        return
    assert found.low <= found.mean <= found.high
    assert 0 <= found.p <= 1
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    order = draw.permutation(len(groups))
    again = estimate(values[draw.permutation(seeds)][:, order], [f"patient {groups[k]}" for k in order])
    assert (again.low, again.high, again.p) == pytest.approx((found.low, found.high, found.p), rel=1e-6)
    scaled = estimate(-3 * values, groups)
    assert (-scaled.high / 3, -scaled.low / 3, scaled.p) == pytest.approx((found.low, found.high, found.p), rel=1e-6)
    shifted = estimate(values + 7, groups)
    assert (shifted.low - 7, shifted.high - 7) == pytest.approx((found.low, found.high), rel=1e-6)


def resampled(statistic, seeds, number_groups, rounds=4000):
    """A statistic of resampled counts [seeds] and [groups], drawn with replacement and crossed (Owen, 2007)."""
    draw, found = np.random.default_rng(0), []
    for _ in range(rounds):
        counts = [draw.multinomial(n, np.full(n, 1 / n)) for n in (seeds, number_groups.max() + 1)]
        found.append(statistic(counts[0], counts[1][number_groups]))
    return np.array(found)


@pytest.mark.parametrize("sizes", [[10] * 40, geometric(3, 40, 10)])
def test_the_variance_matches_resampling_of_many_seeds_and_groups(sizes):
    values, groups = simulated(np.random.default_rng(1), sizes, 30, 1, 0.5, 1)
    again = resampled(lambda s, i: (s @ values @ i) / (s.sum() * i.sum()), 30, np.array(groups))
    parts = components(values, groups)
    assert sum(part.variance for part in parts) == pytest.approx(again.var(), rel=0.25)


def calibration_sums(draw, sizes, seeds, offset=0.05):
    """gaps [seeds, images, bins] (Σ p − y) and counts [seeds, images, bins] of images whose patients are over-confident."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    counts = draw.integers(20, 200, (seeds, len(groups), 10)).astype(float)
    lean = offset + draw.normal(0, 0.03, len(sizes))[groups, None] + draw.normal(0, 0.002, (seeds, 1, 1))
    return counts * (lean * np.linspace(-1, 1, 10) + draw.normal(0, 0.02, counts.shape)), counts, groups


def pooled_ece(gaps, counts):
    return np.abs(gaps.sum(-2)).sum(-1) / counts.sum((-1, -2))


def test_the_linearised_ece_has_the_pooled_mean_and_the_spread_of_resampling():
    gaps, counts, groups = calibration_sums(np.random.default_rng(0), [8] * 30, 20)
    values = np.stack([linearised_ece(*each) for each in zip(gaps, counts, strict=True)])
    assert values.mean(1) == pytest.approx(pooled_ece(gaps, counts), abs=1e-14)

    def statistic(of_seeds, of_images):
        weights = of_images[None, :, None]
        return of_seeds @ pooled_ece(gaps * weights, counts * weights) / of_seeds.sum()

    found = sum(part.variance for part in components(values, list(groups)))
    assert found == pytest.approx(resampled(statistic, 20, groups, 2000).var(), rel=0.25)


def test_the_linearised_eces_interval_covers_the_pooled_one():
    draw, covered = np.random.default_rng(2), []
    truth = np.mean([pooled_ece(*calibration_sums(draw, [8] * 400, 1)[:2]) for _ in range(5)])
    for _ in range(200):
        gaps, counts, groups = calibration_sums(draw, [8] * 20, 3)
        values = [linearised_ece(*each) for each in zip(gaps, counts, strict=True)]
        found = estimate(np.stack(values), list(groups))
        covered.append(found.low <= truth <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_the_correlation_of_slices_is_the_variance_that_they_share():
    values, groups = simulated(np.random.default_rng(0), [20] * 2000, 1, 1, 0, 2)
    correlation, effect = correlation_within(values, groups)
    assert correlation == pytest.approx(0.2, abs=0.01)
    assert effect == pytest.approx(1 + 19 * correlation)
    assert np.isnan(correlation_within(values[:, :5], None)).all()
    assert np.isnan(correlation_within(values[:, :5], ["a"] * 5)).all()


def test_a_verdict_is_better_worse_or_no_evidence():
    draw = np.random.default_rng(0)
    same = [estimate(*simulated(draw, [1] * 50, 5, 1, 0.1, 1)).p for _ in range(200)]
    assert np.mean(np.array(same) < 0.05) <= 0.08
    clear = estimate(*simulated(draw, [1] * 50, 5, 1, 0.1, 1, mean=1.0))
    assert verdict(clear.mean, clear.p, larger_is_better=True) == "better"
    assert verdict(clear.mean, clear.p, larger_is_better=False) == "worse"
    assert verdict(0.1, 0.2, larger_is_better=True) == "no evidence of a difference"


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (2, 2)])
def test_equal_values_have_an_interval_of_no_width(shape):
    equal = estimate(np.zeros(shape))
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    assert estimate(np.ones(shape)).p < 1e-12
    assert estimate(np.full(shape, 1e-17)).p == 1  # a rounding error


def test_one_value_has_no_interval():
    alone = estimate(np.array([[0.3]]))
    assert alone.mean == 0.3
    assert np.isnan([alone.low, alone.p]).all()
    assert verdict(alone.mean, alone.p, True) == "not tested: one value each"


def test_holms_correction_matches_a_worked_example():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert holm(np.array([0.01, np.nan, 0.04])) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert len(holm(np.array([]))) == 0


def test_area_and_crossing_of_a_curve_are_those_of_its_lines():
    steps, values = np.array([0, 100, 300]), np.array([0.0, 0.5, 0.9])
    assert area_under_curve(steps, values) == pytest.approx((100 * 0.25 + 200 * 0.7) / 300)
    assert steps_to(0.7, steps, values) == pytest.approx(200)
    assert steps_to(0.0, steps, values) == 0
    assert steps_to(0.95, steps, values) == np.inf
