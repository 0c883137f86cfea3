"""Verdicts by tests, and the paper's findings in ledgers where they hold, fail, or cannot be decided."""

import numpy as np
import pytest
from test_report import T, attempt

from analysis import tables
from analysis.comparison import against_e1
from analysis.findings import check_findings
from analysis.statistics import Estimate
from analysis.verdicts import Comparison, decide, describe, estimate_over_seeds
from diffseg.config import Config
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.store.ledger import Ledger

IMAGES = 40
NAN = float("nan")


def margins(*pairs):
    return [Estimate(mean, NAN, NAN, p, NAN) for mean, p in pairs]


@pytest.mark.parametrize(
    ("pairs", "most", "every"),
    [
        ([], "not decidable", "not decidable"),
        ([(1, 0.001)], "reproduced", "reproduced"),
        ([(-1, 0.001)], "contradicted", "contradicted"),
        ([(1, 0.2)], "inconclusive", "inconclusive"),
        ([(1, NAN)], "inconclusive", "inconclusive"),
        ([(1, 0.001), (1, 0.001), (1, 0.3)], "reproduced", "inconclusive"),
        ([(1, 0.001), (1, 0.3)], "inconclusive", "inconclusive"),
        ([(1, 0.001), (1, 0.001), (-1, 0.001)], "reproduced", "contradicted"),
        ([(1, 0.001), (-1, 0.001)], "inconclusive", "contradicted"),
        ([(-1, 0.001), (-1, 0.001), (1, 0.9)], "contradicted", "contradicted"),
        ([(1, 0.03), (1, 0.03), (1, 0.03)], "inconclusive", "inconclusive"),  # 0.03 × 3 and × 2 by Holm
        ([(1, NAN), (1, 0.03)], "inconclusive", "inconclusive"),
        ([(0, 1.0), (0, 1.0)], "inconclusive", "inconclusive"),
    ],
)
def test_a_claim_is_decided_by_tests_that_are_corrected_for_their_number(pairs, most, every):
    found = [Comparison(mean, p, "") for mean, p in pairs]
    assert decide(found) == most
    assert decide(found, every=True) == every


@pytest.mark.parametrize(
    ("pairs", "margin", "p"),
    [
        ([(1, 0.01), (2, 0.04)], 1, 0.04),  # the greatest p
        ([(1, 0.01), (-2, 0.001)], -2, 0.002),  # one of two is negative
        ([(1, 0.01), (2, NAN)], 1, NAN),
        ([(-1, NAN), (-2, NAN)], -1, NAN),
        ([(-1, NAN), (-2, 0.01)], -2, 0.02),
        ([(-1, 0.7), (-2, 0.9)], -1, 1.0),
    ],
)
def test_a_claim_of_several_parts_needs_them_all(pairs, margin, p):
    found = Comparison.of(margins(*pairs), "")
    assert found.margin == margin
    assert found.p == pytest.approx(p, nan_ok=True)


def test_words_contain_the_interval_or_state_that_there_is_none():
    assert describe(estimate_over_seeds([1.0, 2.0, 3.0]), ".1f") == "2.0 (−0.5 to 4.5; p = 0.074)"
    assert describe(estimate_over_seeds([1.0]), ".1f") == "1.0 (one seed, so no interval)"
    assert "p = 0.500" in describe(estimate_over_seeds([1.0, 2.0, 3.0]), ".1f", 0.5)


def test_a_claim_that_is_not_true_is_rarely_reproduced():
    draw, verdicts = np.random.default_rng(0), []
    for _ in range(300):
        found = [estimate_over_seeds(draw.normal(0, 1, 4)) for _ in range(3)]
        verdicts.append(decide([Comparison(one.mean, one.p, "") for one in found]))
    assert verdicts.count("inconclusive") / 300 > 0.95


def rises_to(half):
    """A mask error that is half of its maximum at t = half, and 1 from 2 × half on."""
    return lambda seed: np.minimum(1, T / (2 * half)) + 0.001 * np.random.default_rng(seed).normal(size=len(T))


def study(path, cells, seeds=3):
    """A ledger of cells: (experiment, dataset, network) → a function from the seed to changed rows of an attempt."""
    ledger, trials = Ledger(str(path), "study"), []
    for (experiment, dataset, network), change in cells.items():
        for seed in range(seeds):
            leaves = {"experiment": experiment, "data.name": dataset, "network": network, "seed": seed}
            leaves |= {} if network in ("nnunet", "segformer") else {"diffusion.target": "epsilon"}
            config = Config().with_leaves(leaves).resolved()
            trials.append(Trial(trial_name(config), config))
            rows = attempt(config, trials[-1].name)
            change(seed, rows)
            ledger.write(trials[-1].name, 1, rows)
    ledger.define(Study("study", tuple(trials), {}).definition())
    return tables.load([ledger])


def scored(iou, ece=0.02):
    def change(seed, rows):
        draw = np.random.default_rng([seed, round(1000 * iou)])
        values = iou + 0.1 * np.random.default_rng(7).normal(size=IMAGES) + draw.normal(0, 0.01, IMAGES)
        rows["images"] = [{"image": f"{k}", "metric": "iou", "value": value} for k, value in enumerate(values)]
        rows["trials"][0] |= {"iou": values.mean(), "ece": ece + draw.normal(0, 0.0005)}

    return change


def curved(values, column="mask_error"):
    def change(seed, rows):
        curve = values(seed)
        levels = np.arange(1, len(curve) + 1) / len(curve)
        rows["timesteps"] = [
            {"step": step, "t": float(t), "log_snr": float(10 - 20 * t), "mask_error": 1.0, "loss": 1.0, column: value}
            for step in (75, 100)
            for t, value in zip(levels, curve.tolist(), strict=True)
        ]

    return change


def verdict_of(found, words):
    (row,) = (row for row in check_findings(found).to_dict("records") if words in row["claim"])
    assert "nan" not in row["number"]
    return row["verdict"], row["number"]


@pytest.mark.parametrize(
    ("gain", "verdict", "table"), [(0.03, "reproduced", "better"), (-0.03, "contradicted", "worse")]
)
def test_the_verdict_matches_table1(tmp_path, gain, verdict, table):
    cells = {("e1", "isic16", "ensemdiff"): scored(0.8), ("e2", "isic16", "ensemdiff"): scored(0.8 + gain)}
    found = study(tmp_path, cells)
    assert verdict_of(found, "higher IoU")[0] == verdict
    (row,) = against_e1(found.table1(), found).to_dict("records")
    assert row["iou_verdict"] == table


def test_three_means_of_the_right_sign_are_not_enough(tmp_path):
    cells = {}
    for dataset in ("isic16", "monuseg", "her2"):
        cells |= {("e1", dataset, "ensemdiff"): scored(0.8), ("e2", dataset, "ensemdiff"): scored(0.801)}
    verdict, words = verdict_of(study(tmp_path, cells), "higher IoU")
    assert verdict == "inconclusive"
    assert words.count("p = ") == 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("plain", "other", "verdict"), [(0.9, 0.8, "reproduced"), (0.8, 0.9, "contradicted"), (0.8, 0.801, "inconclusive")]
)
def test_the_best_network_is_tested_on_every_data_set(tmp_path, plain, other, verdict):
    cells = {
        ("e1", "isic16", "segformer"): scored(plain),
        ("e1", "isic16", "ensemdiff"): scored(other - 0.05),
        ("e2", "isic16", "ensemdiff"): scored(other),
    }
    assert verdict_of(study(tmp_path, cells), "best IoU")[0] == verdict
    del cells["e1", "isic16", "segformer"]
    assert verdict_of(study(tmp_path / "without", cells), "best IoU")[0] == "not decidable"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("until", "after", "verdict", "beyond"),
    [
        (0.4, 0.2, "reproduced", "reproduced"),
        (0.8, 0.2, "contradicted", "reproduced"),
        (0.1, 0.9, "contradicted", "contradicted"),
    ],
)
def test_the_noise_level_from_which_the_image_is_needed_is_tested(tmp_path, until, after, verdict, beyond):
    def with_image(seed):
        return np.where(until + 0.001 >= T, rises_to(0.5)(seed), after + 0.01 * seed / 3)

    cells = {("e3", "isic16", "ensemdiff"): curved(rises_to(0.5)), ("e2", "isic16", "ensemdiff"): curved(with_image)}
    found = study(tmp_path, cells)
    assert verdict_of(found, "up to about t = 0.4")[0] == verdict
    assert verdict_of(found, "beyond")[0] == beyond
    one = study(tmp_path / "one", cells, seeds=1)
    assert verdict_of(one, "up to about t = 0.4")[0] == "inconclusive"
    assert "one seed, so no interval" in verdict_of(one, "beyond")[1]


def test_errors_that_differ_at_every_level_are_described_so(tmp_path):
    cells = {
        ("e3", "isic16", "ensemdiff"): curved(rises_to(0.5)),
        ("e2", "isic16", "ensemdiff"): curved(lambda seed: 3 * rises_to(0.5)(seed)),
    }
    verdict, words = verdict_of(study(tmp_path, cells), "up to about t = 0.4")
    assert verdict == "contradicted"
    assert "they differ from the first level on" in words
    assert "0.00" not in words


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("halves", "verdict"),
    [
        ({"monuseg": 0.2, "her2": 0.3, "isic16": 0.4}, "reproduced"),
        ({"monuseg": 0.2, "her2": 0.4, "isic16": 0.3}, "contradicted"),
        ({"monuseg": 0.3, "isic16": 0.3}, "inconclusive"),
        ({"monuseg": 0.3}, "not decidable"),
    ],
)
def test_the_order_of_the_fingerprints_is_tested(tmp_path, halves, verdict):
    noise = {name: place for place, name in enumerate(halves)}
    cells = {
        ("e3", name, "ensemdiff"): curved(lambda seed, half=half, k=noise[name]: rises_to(half)(seed + 100 * k))
        for name, half in halves.items()
    }
    assert verdict_of(study(tmp_path, cells), "soonest for MoNuSeg")[0] == verdict
    one = verdict_of(study(tmp_path / "one", cells, seeds=1), "soonest for MoNuSeg")[0]
    assert one == ("inconclusive" if len(halves) > 1 else "not decidable")


@pytest.mark.parametrize(("half", "verdict"), [(0.6, "reproduced"), (0.3, "contradicted")])
def test_convergence_at_the_end_is_tested(tmp_path, half, verdict):
    assert verdict_of(study(tmp_path, {("e3", "her2", "ensemdiff"): curved(rises_to(half))}), "converged")[0] == verdict


@pytest.mark.parametrize(
    ("shape", "verdict"), [(lambda t: 1.1 - t, "reproduced"), (lambda t: (t - 0.4) ** 2, "contradicted")]
)
def test_the_monotonicity_of_the_loss_of_images_is_tested(tmp_path, shape, verdict):
    curve = curved(lambda seed: shape(T) * (1 + 0.001 * np.random.default_rng(seed).normal(size=len(T))), "loss")
    assert verdict_of(study(tmp_path, {("e4", "isic16", "ensemdiff"): curve}), "for images")[0] == verdict


def dipping(t):
    early = np.where(t <= 0.05, 1 - 10 * t, 0.5 + 10 * (t - 0.05))
    return np.where(t <= 0.15, early, 1.5 - 1.4 * (t - 0.15) / 0.85)


@pytest.mark.parametrize(("shape", "verdict"), [(dipping, "reproduced"), (lambda t: 1 + t, "contradicted")])
def test_the_shape_of_the_loss_of_masks_is_tested(tmp_path, shape, verdict):
    t = np.arange(1, 101) / 100
    curve = curved(lambda seed: shape(t) * (1 + 0.0005 * np.random.default_rng(seed).normal(size=100)), "loss")
    found = study(tmp_path, {("e2", "isic16", "ensemdiff"): curve})
    assert verdict_of(found, "for masks")[0] == verdict
