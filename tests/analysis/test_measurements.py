"""Samples from ledgers: patients, images that are left out, and the pooled ECE by image."""

import numpy as np
import pandas as pd
import pytest
from test_report import attempt

from analysis import tables
from analysis.comparison import against_e1, compare_configurations
from analysis.configurations import name_configurations
from analysis.measurements import compare, estimate_differences
from analysis.statistics import estimate
from diffseg.config import Config
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.store.ledger import Ledger

PATIENTS, SLICES, SEEDS = 8, 6, 3
GROUPS = [f"p{k // SLICES}" for k in range(PATIENTS * SLICES)]


def iou_of(experiment, seed):
    """Patients differ much, their slices little; E2 is better by 0.02, more for some patients than for others."""
    draw, patients = np.random.default_rng([seed, experiment == "e2"]), np.random.default_rng(9)
    level, gain = patients.normal(0.7, 0.1, PATIENTS), patients.normal(0.02, 0.02, PATIENTS)
    means = level + (gain if experiment == "e2" else 0)
    return means.repeat(SLICES) + draw.normal(0, 0.005, len(GROUPS))


def calibration_of(experiment, seed):
    draw = np.random.default_rng([seed, experiment == "e2", 5])
    lean = {"e1": 0.05, "e2": 0.02}[experiment] + np.random.default_rng(3).normal(0, 0.01, PATIENTS)
    return [
        {
            "image": f"{k}",
            "group": GROUPS[k],
            "bin": b,
            "count": int(draw.integers(1, 50)),
            "confidence": b / 10 + 0.05,
            "accuracy": b / 10 + 0.05 - lean[k // SLICES],
        }
        for k in range(len(GROUPS))
        for b in range(1, 10)
    ]


def pooled_ece(rows):
    frame = pd.DataFrame(rows)
    gaps = (frame["count"] * (frame["confidence"] - frame["accuracy"])).groupby(frame["bin"]).sum()
    return gaps.abs().sum() / frame["count"].sum()


def ledger_of(path, edit=lambda experiment, seed, rows: rows, seeds=SEEDS, name="study"):
    """E1 and E2 of several seeds; edit: changes an attempt's rows before they are written."""
    ledger, trials, variants = Ledger(str(path), name), [], {}
    for experiment in ("e1", "e2"):
        for seed in range(seeds):
            leaves = {"experiment": experiment, "seed": seed, "data.name": "slices", "diffusion.target": "x0"}
            config = Config().with_leaves(leaves).resolved()
            trials.append(Trial(trial_name(config), config))
            variants[trials[-1].name] = experiment
            rows, values = attempt(config, trials[-1].name), iou_of(experiment, seed)
            rows["images"] = [
                {"image": f"{k}", "group": GROUPS[k], "metric": "iou", "value": value} for k, value in enumerate(values)
            ]
            rows["calibration"] = calibration_of(experiment, seed)
            rows["trials"][0] |= {"iou": values.mean(), "ece": pooled_ece(rows["calibration"]), "dice": None}
            rows["trials"][0] |= {"brier": None, "nll": None, "test_images": len(GROUPS)}
            ledger.write(trials[-1].name, 1, edit(experiment, seed, rows))
    ledger.define(Study(name, tuple(trials), {}, variants=variants, baseline="e1").definition())
    return ledger


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return tables.load([ledger_of(tmp_path_factory.mktemp("store"))])


def trials_of(found, experiment):
    return found.trials[found.trials["experiment"] == experiment]


def test_differences_are_estimated_by_patients(found):
    (one,) = estimate_differences(found, [(trials_of(found, "e1"), trials_of(found, "e2"))], "iou")
    differences = np.stack([iou_of("e2", seed) - iou_of("e1", seed) for seed in range(SEEDS)])
    expected, slices = estimate(differences, GROUPS), estimate(differences)
    assert (one.low, one.high, one.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert one.high - one.low > 1.5 * (slices.high - slices.low)
    (row,) = against_e1(found.table1(), found).to_dict("records")
    assert (row["iou_low"], row["iou_high"]) == pytest.approx((expected.low, expected.high))


def test_means_have_their_numbers_of_images_and_patients(found):
    rows = compare_configurations(found, name_configurations(list(found.ledgers))).set_index(
        ["configuration", "metric"]
    )
    for configuration in ("e1", "e2"):
        row = rows.loc[(configuration, "iou")]
        assert (row["images"], row["left_out"], row["units"]) == (len(GROUPS), 0, PATIENTS)
        assert row["mean"] == pytest.approx(trials_of(found, configuration)["iou"].mean())


@pytest.mark.parametrize("metric", ["iou", "ece"])
def test_the_order_in_which_metrics_are_read_changes_nothing(found, metric):
    alone, among = (tables.load(list(found.ledgers)).measurements for _ in range(2))
    for other in ("iou", "ece", "dice"):
        among.sample(trials_of(found, "e1"), other)
    one, other = (each.sample(trials_of(found, "e1"), metric) for each in (alone, among))
    assert one.units == other.units == PATIENTS
    assert one.estimate == other.estimate


def test_the_pooled_ece_has_an_interval_by_patients_even_with_one_seed(tmp_path):
    one = tables.load([ledger_of(tmp_path, seeds=1)])
    sample = one.measurements.sample(trials_of(one, "e1"), "ece")
    assert sample.estimate.mean == pytest.approx(trials_of(one, "e1")["ece"].iloc[0], abs=1e-12)
    assert (sample.images, sample.units) == (len(GROUPS), PATIENTS)
    assert sample.estimate.low < sample.estimate.mean < sample.estimate.high
    (row,) = against_e1(one.table1(), one).to_dict("records")
    assert row["ece_verdict"] == "better"
    assert row["ece_low"] < row["ece_difference"] < row["ece_high"] < 0


def without(*columns):
    """Rows as an earlier version wrote them."""

    def edit(experiment, seed, rows):
        for table in ("images", "calibration"):
            rows[table] = [{k: v for k, v in row.items() if k not in columns} for row in rows[table]]
        return rows

    return edit


def test_without_groups_the_units_are_images(tmp_path):
    old = tables.load([ledger_of(tmp_path, without("group"))])
    sample = old.measurements.sample(trials_of(old, "e1"), "iou")
    assert sample.units == sample.images == len(GROUPS)


def test_without_the_calibration_of_images_the_ece_is_tested_over_seeds(tmp_path):
    old = tables.load([ledger_of(tmp_path, _no_calibration_by_image)])
    sample = old.measurements.sample(trials_of(old, "e1"), "ece")
    assert (sample.images, sample.units, sample.values.shape) == (0, 0, (SEEDS, 1))
    mixed = _mixed(tmp_path / "mixed")
    sample = mixed.measurements.sample(trials_of(mixed, "e1"), "ece")
    assert sample.values.to_numpy()[:, 0] == pytest.approx(trials_of(mixed, "e1").sort_values("seed")["ece"])


def _no_calibration_by_image(experiment, seed, rows):
    pooled = pd.DataFrame(rows["calibration"]).groupby("bin", as_index=False)[["count", "confidence", "accuracy"]]
    return rows | {"calibration": pooled.mean().astype({"count": int}).to_dict("records")}


def _mixed(path):
    return tables.load(
        [ledger_of(path, lambda e, seed, rows: _no_calibration_by_image(e, seed, rows) if seed else rows)]
    )


def leaving_out(names, value):
    """Some images of one seed of E2 are NaN, or are not there at all."""

    def edit(experiment, seed, rows):
        if (experiment, seed) == ("e2", 1):
            rows["images"] = [
                row if row["image"] not in names else row | {"value": value}
                for row in rows["images"]
                if value is not None or row["image"] not in names
            ]
        return rows

    return edit


@pytest.mark.parametrize("value", [np.nan, None])
def test_images_that_are_left_out_are_counted(tmp_path, value):
    some = tables.load([ledger_of(tmp_path, leaving_out({"3", "7"}, value))])
    measured = some.measurements
    ours, theirs = (measured.sample(trials_of(some, name), "iou") for name in ("e1", "e2"))
    assert (theirs.images, theirs.measured) == (len(GROUPS) - 2, len(GROUPS))
    assert (ours.images, ours.measured) == (len(GROUPS), len(GROUPS))
    assert compare(theirs, ours)[1].images == len(GROUPS) - 2
    rows = compare_configurations(some, name_configurations(list(some.ledgers))).set_index(["configuration", "metric"])
    assert rows.loc[("e2", "iou"), "left_out"] == 2
    assert rows.loc[("e1", "iou"), "left_out"] == 0
    assert rows.loc[("e2", "iou"), "pairs"] == len(GROUPS) - 2


def test_if_a_seed_has_no_image_values_of_whole_trials_are_compared(tmp_path):
    nothing = ledger_of(tmp_path, leaving_out({f"{k}" for k in range(len(GROUPS))}, np.nan))
    some = tables.load([nothing])
    sample = some.measurements.sample(trials_of(some, "e2"), "iou")
    assert (sample.measured, len(sample.values)) == (0, SEEDS)


def test_difference_and_interval_use_the_seeds_that_both_have(tmp_path):
    """E2 lacks a seed: the difference, like its interval, is over the seeds that both have."""
    trials = tables.load([ledger_of(tmp_path)])
    e2 = trials_of(trials, "e2")
    kept = tables.Tables(trials.ledgers, trials.trials.drop(e2[e2["seed"] == 0].index), trials.failed)
    (row,) = against_e1(kept.table1(), kept).to_dict("records")
    paired = np.mean([iou_of("e2", seed) - iou_of("e1", seed) for seed in (1, 2)])
    assert row["iou_difference"] == pytest.approx(paired)
    assert row["iou_low"] < row["iou_difference"] < row["iou_high"]
