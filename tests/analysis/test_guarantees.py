"""Decisions with a guarantee in tables, charts, the report and CSV files, from a ledger whose numbers are known."""

import numpy as np
import pytest
from test_report import attempt, ledger_of

from analysis import card, tables
from analysis.card_subject import load_subject
from analysis.guarantees import controlled_risks, tabulate_risks
from analysis.report import write_report
from analysis.results import Results
from analysis.statistics import estimate
from analysis.views import write_csv
from diffseg.config import Config
from diffseg.evaluation.risk import THRESHOLDS, Risks
from studies.definition.study import Study, stored_study
from studies.definition.trial import Trial, trial_name
from studies.store.ledger import Ledger

UNITS = tuple(f"patient {k}" for k in range(20))


def losses(seed, units):
    steps = np.arange(len(THRESHOLDS)) / len(THRESHOLDS)
    return (steps[None] * np.linspace(0.1 + 0.05 * seed, 0.6, units)[:, None]).clip(0, 1)


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Three seeds of E1 with a limit of the risk, and one without."""
    import torch

    leaves = {"experiment": "e1", "data.calibration": 0.2, "inference.risk.level": 0.15}
    plain = Config().with_leaves({"experiment": "e1"}).resolved()
    chosen = [
        Config().with_leaves(leaves | {"inference.risk.metric": "fnr", "seed": seed}).resolved() for seed in range(3)
    ]
    ledger = Ledger(str(tmp_path_factory.mktemp("limited")), "study")
    trials = [Trial(trial_name(config), config) for config in (plain, *chosen)]
    ledger.define(Study("study", tuple(trials), {}, command="diffseg run study.toml").definition())
    ledger.write(trials[0].name, 1, attempt(plain, trials[0].name))
    for config, trial in zip(chosen, trials[1:], strict=True):
        found = attempt(config, trial.name)
        risks = Risks(UNITS, torch.from_numpy(losses(config.seed, 20)))
        row = {"risk_threshold": 0.4, "risk": risks.mean_at(0.4), "risk_units": 12}
        rows = Risks(UNITS[:12], torch.from_numpy(losses(config.seed, 12))).rows("calibration", 0.4) + risks.rows(
            "test", 0.4
        )
        ledger.write(trial.name, 1, found | {"trials": [found["trials"][0] | row], "risks": rows})
    return ledger


def test_the_table_has_the_risk_with_its_interval_over_patients_and_seeds(limited):
    (row,) = tabulate_risks(tables.load([limited])).to_dict("records")
    assert (row["seeds"], row["chosen_by"], row["units"], row["level"]) == (3, 12, 20, 0.15)
    assert row["threshold"] == pytest.approx(0.4)
    own = np.stack([losses(seed, 20)[:, THRESHOLDS.index(0.4)] for seed in range(3)])
    expected = estimate(own)
    assert row["risk"] == pytest.approx(expected.mean)
    assert (row["risk_low"], row["risk_high"]) == pytest.approx((expected.low, expected.high))
    assert row["risk_low"] < own.mean() < row["risk_high"]


def test_the_chart_has_both_curves_the_level_and_the_choices(limited):
    spec = controlled_risks(tables.load([limited])).to_dict()
    (rows,) = spec["datasets"].values()
    counts = {kind: sum(row["images"] == kind for row in rows) for kind in ("calibration", "test", "chosen", "level")}
    assert counts == {"calibration": 100, "test": 100, "chosen": 3, "level": 1}
    assert [row["level"] for row in rows if row["images"] == "level"] == [0.15]


def test_the_report_and_the_csv_files_have_them(limited, tmp_path):
    page = write_report([limited], tmp_path / "report.html").read_text()
    assert "Decisions with a guarantee: the threshold was chosen" in page
    assert '"controlled_risks"' in page or "controlled_risks:" in page
    found = tables.load([limited])
    written = write_csv(Results(found.ledgers, found.trials, found.failed), tmp_path / "csv")
    assert written[tmp_path / "csv/risks.csv"] == 3 * (2 * len(THRESHOLDS) + 12 + 20)


def test_a_card_says_what_the_guarantee_is_of_and_what_it_led_to(limited):
    trials = tables.load([limited]).trials
    name = trials[trials["risk_threshold"].notna()]["trial"].iloc[0]
    text = card.render_card(load_subject(stored_study("study", limited.definition()), limited, name))
    assert "foreground is above 0.4, which 12 images chose that training did not see" in text
    own = losses(0, 20)[:, THRESHOLDS.index(0.4)]
    assert f"{own.mean():.3f} was missed on average in the 20 of the test, 95 % interval" in text
    assert "exchangeable with them), not for each patient" in text


@pytest.mark.slow
def test_without_a_limit_there_is_nothing_to_show(tmp_path):
    ledger = ledger_of(tmp_path, [Config().with_leaves({"experiment": "e1"}).resolved()])
    found = tables.load([ledger])
    assert tabulate_risks(found).empty
    assert controlled_risks(found) is None
    assert "Decisions with a guarantee" not in write_report([ledger], tmp_path / "report.html").read_text()
