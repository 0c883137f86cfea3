"""Cost and quality of ways of sampling, from ledgers whose numbers are known."""

import json

import pytest
from test_report import attempt

from analysis import tables
from analysis.report import write_report
from analysis.sampling import compare_sampling, sampling
from diffseg.config import Config
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.store.ledger import Ledger

WAYS = {  # sampler, steps, ensemble, settled: evaluations of a sample, IoU, ECE
    ("ancestral", 1000, 5, None): (1000, 0.80, 0.030),
    ("ddim", 1000, 5, None): (1000, 0.81, 0.031),
    ("ancestral", 1000, 5, 10): (40, 0.798, 0.034),
    ("ddim", 10, 5, None): (10, 0.796, 0.030),
    ("ddim", 20, 5, None): (20, 0.80, 0.036),
    ("ddim", 20, 2, None): (20, 0.799, 0.034),
}


def write_trial(ledger, ways, seed, trained=None, others=None, gain=0.0):
    sampler, steps, ensemble, settled = ways
    evaluations, iou, ece = WAYS[ways]
    leaves = {"sampler": sampler, "steps": steps, "ensemble": ensemble, "settled": settled}
    config = Config().with_leaves(
        {f"inference.{name}": value for name, value in leaves.items()} | {"seed": seed} | (others or {})
    )
    trial = Trial(trial_name(config.resolved()), config.resolved())
    rows = attempt(trial.config, trial.name)
    shift = 0.1 * seed  # seeds differ much, but equally for all ways
    rows["trials"][0] |= {"study": ledger.study, "trained": trained or config.resolved().trained}
    rows["trials"][0] |= {"evaluations": float(evaluations), "iou": iou + shift + gain, "ece": ece - shift / 10}
    ledger.write(trial.name, 1, rows)
    return trial


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    ledger = Ledger(str(tmp_path_factory.mktemp("store")), "steps")
    trials = tuple(write_trial(ledger, ways, seed) for ways in WAYS for seed in (0, 1))
    ledger.define(Study("steps", trials, {}).definition())
    return ledger


def test_ways_of_sampling_are_compared_with_the_most_expensive_one(ledger):
    rows = compare_sampling(tables.load([ledger]))
    rows = rows.assign(settled=rows["settled"].replace(0, None)).set_index(["sampler", "steps", "ensemble", "settled"])
    assert len(rows) == len(WAYS)
    assert next(iter(rows.index[rows["reference"]]))[:3] == ("ancestral", 1000, 5)
    assert rows["reference"].sum() == 1
    for ways, (evaluations, iou, ece) in WAYS.items():
        row = rows.loc[[ways]].iloc[0]
        assert row["evaluations"] == evaluations * ways[2]
        assert row["seeds"] == 2
        assert row["iou"] == pytest.approx(iou + 0.05)
        assert row["iou_difference"] == pytest.approx(iou - 0.8)
        assert row["iou_distance"] == pytest.approx(abs(iou - 0.8))
        assert row["ece_difference"] == pytest.approx(ece - 0.03)
        assert row["alike"] == (iou >= 0.797 and ece <= 0.035)
    assert list(rows["evaluations"]) == sorted(rows["evaluations"])


@pytest.mark.slow
def test_the_report_has_the_chart(ledger, tmp_path):
    chart = sampling(tables.load([ledger])).to_dict()
    assert len(chart["vconcat"]) >= 2
    assert "network evaluations an image" in write_report([ledger], tmp_path / "report.html").read_text()


def test_without_early_stopping_no_sample_has_settled(tmp_path):
    ledger = Ledger(str(tmp_path), "unsettled")
    trials = tuple(write_trial(ledger, ways, 0) for ways in WAYS if not ways[-1])
    ledger.define(Study("unsettled", trials, {}).definition())
    assert list(compare_sampling(tables.load([ledger]))["settled"]) == [0] * len(trials)


def test_trials_that_share_no_training_make_no_chart(tmp_path):
    ledger = Ledger(str(tmp_path), "apart")
    trials = tuple(write_trial(ledger, ways, 0, trained=str(k)) for k, ways in enumerate(WAYS))
    ledger.define(Study("apart", trials, {}).definition())
    assert compare_sampling(tables.load([ledger])).empty
    assert sampling(tables.load([ledger])) is None


OTHERS = {  # settings of training, and of sampling besides the usual ones: their words, and the gain in IoU
    "": ({}, 0.0),
    "recycling 0.5": ({"diffusion.recycling": 0.5}, 0.02),
    "grid log-snr": ({"inference.grid": "log-snr"}, -0.05),
    "epsilon scale 1.01": ({"inference.epsilon_scale": 1.01}, 0.01),
}


def test_ways_are_compared_where_all_other_settings_are_equal(tmp_path):
    """Trials that differ in more than the way of sampling have a reference of their own each, and a line in the chart."""
    ledger = Ledger(str(tmp_path), "several")
    chosen = [("ancestral", 1000, 5, None), ("ddim", 20, 5, None)]
    trials = tuple(
        write_trial(ledger, ways, seed, others=settings, gain=gain)
        for settings, gain in OTHERS.values()
        for ways in (chosen if settings else WAYS)
        for seed in (0, 1)
    )
    ledger.define(Study("several", trials, {}).definition())
    rows = compare_sampling(tables.load([ledger]))
    assert set(rows["others"]) == set(OTHERS)
    for words, (_, gain) in OTHERS.items():
        own = rows[rows["others"] == words]
        assert own["reference"].sum() == 1
        assert own.loc[own["reference"], "iou"].item() == pytest.approx(0.85 + gain)
        assert own.loc[own["reference"], "iou_difference"].item() == 0
    chart = json.dumps(sampling(tables.load([ledger])).to_dict())
    assert "ancestral, recycling 0.5" in chart
    write_report([ledger], tmp_path / "report.html")
