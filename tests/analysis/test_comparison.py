"""Configurations against a baseline, and searches in tables, from ledgers whose numbers are known."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_report import attempt
from test_search import START, carry_out, planted, study_of

from analysis import searches, tables
from analysis.comparison import against_e1, against_first, compare_configurations
from analysis.configurations import name_configurations
from analysis.report import write_report
from analysis.segmentations import _list_pairs, _pair, tabulate_studies
from analysis.statistics import estimate
from diffseg.config import Config
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.scheduler import Scheduler
from studies.store.ledger import Ledger

IMAGES, SEEDS = 40, 4
EFFECTS = {"uniform": 0.0, "snr+1": 0.1, "min-snr": 0.001}  # in IoU; the ECE falls by a tenth of it
STEPS = (50, 100, 200)


def write_trial(ledger, trial, effect, seed, shift=0.0):
    """Rows of a trial: IoUs of images differ much, those of seeds a little; better configurations also learn sooner."""
    rows = attempt(trial.config, trial.name)
    draw = np.random.default_rng(seed)
    iou = 0.6 + shift + effect + np.random.default_rng(99).normal(0, 0.1, IMAGES) + draw.normal(0, 0.01, IMAGES)
    rows["images"] = [{"image": f"{k}", "metric": "iou", "value": value} for k, value in enumerate(iou)]
    rows["trials"][0] |= {"study": ledger.study, "iou": iou.mean(), "ece": 0.1 - effect / 10 + draw.normal(0, 0.0001)}
    rows["trials"][0] |= {"dice": None, "brier": None, "nll": None, "test_images": IMAGES}
    shares = (0.3 + effect, 0.8 + effect, 1.0)
    rows["curves"] = [
        {"step": step, "metric": "iou", "value": 0.6 * share} for step, share in zip(STEPS, shares, strict=True)
    ]
    ledger.write(trial.name, 1, rows)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    ledger, trials, variants = Ledger(str(tmp_path_factory.mktemp("store")), "question"), [], {}
    for weighting, effect in EFFECTS.items():
        for seed in range(SEEDS):
            config = Config().with_leaves({"diffusion.target": "x0", "diffusion.weighting": weighting, "seed": seed})
            trial = Trial(trial_name(config.resolved()), config.resolved())
            write_trial(ledger, trial, effect, seed)
            trials.append(trial)
            variants[trial.name] = weighting
    ledger.define(Study("question", tuple(trials), {}, variants=variants, baseline="uniform").definition())
    return ledger


@pytest.fixture(scope="module")
def found(ledger):
    return compare_configurations(tables.load([ledger]), name_configurations([ledger])).set_index(
        ["configuration", "metric"]
    )


def test_a_difference_is_paired_by_image_and_corrected(found):
    better, same = found.loc[("snr+1", "iou")], found.loc[("min-snr", "iou")]
    assert better["difference"] == pytest.approx(0.1)
    assert [better["difference_low"], better["difference_high"]] == pytest.approx([0.1, 0.1])  # the same noise in both
    assert better["high"] - better["low"] > 0.02
    assert (better["verdict"], same["verdict"]) == ("better", "better")  # the same noise in both: even 0.001 is seen
    assert found.loc[("uniform", "iou"), "baseline"]
    assert found.loc[("snr+1", "iou"), "seeds"] == SEEDS


def test_series_are_named_after_the_studys_variants(ledger):
    assert set(tables.load([ledger]).trials["variant"]) == set(EFFECTS)


def test_metrics_of_whole_trials_are_compared_over_seeds(found):
    row = found.loc[("snr+1", "ece")]
    assert row["difference"] == pytest.approx(-0.01)
    assert row["verdict"] == "better"
    assert set(found.index.get_level_values("metric")) == {"iou", "ece", "area", "steps"}


def test_steps_are_counted_to_a_share_of_the_baselines_final_iou(found):
    """0.95 of 0.6 is reached between 0.48 and 0.6: at step 175; sooner from 0.54 on."""
    assert found.loc[("uniform", "steps"), "mean"] == pytest.approx(175)
    assert found.loc[("snr+1", "steps"), "mean"] == pytest.approx(150)
    assert found.loc[("uniform", "area"), "mean"] == pytest.approx(0.6 * (50 * 0.55 + 100 * 0.9) / 150)
    assert found.loc[("snr+1", "area"), "verdict"] == "better"


def test_the_command_and_the_report_show_the_comparison(ledger, tmp_path):
    store = ledger.root.rpartition("/")[0]
    shown = CliRunner().invoke(main, ["compare", "question", "--store", store])
    assert shown.exit_code == 0, shown.output
    assert "baseline" in shown.output
    rows = json.loads(CliRunner().invoke(main, ["compare", "question", "--store", store, "--json"]).output)
    assert len(rows) == 12
    page = write_report([ledger], tmp_path / "report.html").read_text()
    assert "Against the baseline" in page
    assert "steps to 95% of the baseline&#39;s final IoU" in page


def test_settings_are_added_to_a_variants_name_that_several_trials_share(tmp_path):
    ledger, trials = Ledger(str(tmp_path), "study"), []
    for rate, weighting in ((1e-3, "snr"), (1e-4, "snr"), (1e-3, "snr+1")):
        leaves = {"diffusion.target": "x0", "diffusion.weighting": weighting, "training.learning_rate": rate}
        config = Config().with_leaves(leaves).resolved()
        trials.append(Trial(trial_name(config), config))
        write_trial(ledger, trials[-1], 0.0, 0)
    variants = dict(zip((trial.name for trial in trials), ("one", "one", "other"), strict=True))
    ledger.define(Study("study", tuple(trials), {}, variants=variants).definition())
    found = set(tables.load([ledger]).trials["variant"])
    assert found == {"one, weighting snr, learning rate 0.001", "one, weighting snr, learning rate 0.0001", "other"}


def small_study(path, name, effects, seeds=SEEDS, seeds_e1=None):
    """E1, and E2 with weightings whose IoU is greater by their effects."""
    ledger, trials = Ledger(str(path), name), []
    for weighting, effect in effects.items():
        for seed in range(seeds_e1 or seeds if weighting == "e1" else seeds):
            leaves = {"experiment": "e1"} if weighting == "e1" else {"diffusion.weighting": weighting}
            config = Config().with_leaves(leaves | {"diffusion.target": "x0", "seed": seed}).resolved()
            trials.append(Trial(trial_name(config), config))
            write_trial(ledger, trials[-1], effect, seed)
    ledger.define(Study(name, tuple(trials), {}).definition())
    return ledger


def test_table1_tests_e2_against_e1_by_seed_and_image(tmp_path):
    found = tables.load([small_study(tmp_path, "study", {"e1": 0.0, "snr+1": 0.1, "uniform": 0.0})])
    rows = against_e1(found.table1(), found).set_index("variant_e2")
    better, same = rows.loc["weighting snr+1"], rows.loc["weighting uniform"]
    assert better["iou_difference"] == pytest.approx(0.1)
    assert [better["iou_low"], better["iou_high"]] == pytest.approx([0.1, 0.1])  # the same noise in both
    assert (better["iou_verdict"], same["iou_verdict"]) == ("better", "no evidence of a difference")
    frame = found.trials.set_index(["experiment", "variant", "seed"])["ece"]
    ours = [frame["e2", "weighting snr+1", seed] - frame["e1", "", seed] for seed in range(SEEDS)]
    expected = estimate(np.array(ours)[:, None])
    assert [better["ece_low"], better["ece_high"]] == pytest.approx([expected.low, expected.high])
    assert better["ece_p"] == pytest.approx(2 * expected.p)  # the smaller p of two rows


def test_one_seed_is_tested_over_images_in_iou_but_not_in_ece(tmp_path):
    found = tables.load([small_study(tmp_path, "study", {"e1": 0.0, "snr+1": 0.1}, seeds=1)])
    (row,) = against_e1(found.table1(), found).to_dict("records")
    assert row["iou_verdict"] == "better"
    assert row["ece_verdict"] == "not tested: one value each"
    found = tables.load([small_study(tmp_path, "without", {"snr+1": 0.1})])
    (row,) = against_e1(found.table1(), found).to_dict("records")
    assert np.isnan(row["iou_p"])
    assert pd.isna(row["iou_verdict"])


@pytest.mark.parametrize(("e1", "e2"), [(4, 1), (2, 4)])
def test_the_means_of_a_row_are_over_the_seeds_that_both_have(tmp_path, e1, e2):
    """So they differ by the difference that is tested, and the report says of how many seeds."""
    ledger = small_study(tmp_path, "study", {"e1": 0.0, "snr+1": 0.1}, e2, e1)
    found = tables.load([ledger])
    (row,) = against_e1(found.table1(), found).to_dict("records")
    assert (row["seeds"], row["seeds_e1"], row["seeds_e2"]) == (min(e1, e2), e1, e2)
    for metric in ("iou", "ece"):
        assert row[f"{metric}_difference"] == pytest.approx(row[f"{metric}_e2"] - row[f"{metric}_e1"])
    html = tmp_path / "report.html"
    write_report([ledger], html)
    assert f"<td>{min(e1, e2)} of {max(e1, e2)}</td>" in html.read_text()


def test_compare_says_which_configuration_has_fewer_seeds(tmp_path):
    small_study(tmp_path, "study", {"e1": 0.0, "snr+1": 0.1, "uniform": 0.0}, 2, 3)
    output = CliRunner().invoke(main, ["compare", "study", "--store", str(tmp_path)], env={"COLUMNS": "120"}).stdout
    lines = [line.split() for line in output.splitlines()]
    assert next(line[:3] for line in lines if line[:1] == ["configuration"]) == ["configuration", "seeds", "mean"]
    assert "their differences are over those that the baseline has, too." in " ".join(output.split())
    assert "(Holm), intervals are not." in " ".join(output.split())


def test_means_are_over_all_seeds_where_e1_and_e2_share_none():
    rows = [("e1", seed, 0.5) for seed in (0, 1)] + [("e2", 2, 0.7)]
    own = pd.DataFrame(rows, columns=["experiment", "seed", "iou"])
    own = own.assign(study="a", dataset="b", network="c", variant="", ece=0.1, test_images=9)
    (row,) = _pair(own).to_dict("records")
    assert (row["seeds"], row["seeds_e1"], row["seeds_e2"], row["iou_difference"]) == (0, 2, 1, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("e1", "e2", "expected"),
    [
        (["free", "safe"], ["free", "safe"], ["free-free", "safe-safe"]),
        ([""], ["", "x0"], ["-", "-x0"]),
        (["plain", "latent"], ["plain"], ["plain-plain", "latent-plain"]),
        ([], ["x0"], ["None-x0"]),
    ],
)
def test_variants_that_both_experiments_have_are_compared_with_themselves_only(e1, e2, expected):
    assert ["-".join(map(str, pair)) for pair in _list_pairs(e1, e2)] == expected


def test_studies_are_tested_against_the_first_even_if_their_trials_share_names(tmp_path):
    ledgers = [small_study(tmp_path, "one", {"snr+1": 0.0}), small_study(tmp_path, "two", {"snr+1": 0.05})]
    found = tables.load(ledgers)
    assert found.trials["trial"].nunique() == SEEDS
    first, second = against_first(tabulate_studies(found), found).to_dict("records")
    assert (first["study"], second["study"]) == ("one", "two")
    assert np.isnan(first["iou_p"])
    assert pd.isna(first["iou_verdict"])
    assert second["iou_difference"] == pytest.approx(0.05)
    assert second["iou_low"] == pytest.approx(0.05)  # the same noise in both
    assert second["iou_verdict"] == "better"
    page = " ".join(write_report(ledgers, tmp_path / "report.html").read_text().split())
    assert "▲ +5.00 <br><small>+5.00 to +5.00</small><br><small>better, p &lt; 0.001</small></td>" in page


def test_without_a_baseline_the_command_says_what_is_missing(tmp_path):
    ledger = Ledger(str(tmp_path), "plain")
    trial = Trial("t", Config())
    ledger.define(Study("plain", (trial,), {}).definition())
    write_trial(ledger, trial, 0, 0)
    result = CliRunner().invoke(main, ["compare", "plain", "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert "no complete trial of a baseline" in result.output


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    study, ledger = study_of(budget=6, confirm="1x2"), Ledger(str(tmp_path_factory.mktemp("search")), "searched")
    ledger.define(study.definition())
    carry_out(study, ledger)
    for proposal in study.known_trials(ledger):
        effect = planted(proposal.config)["iou"] - planted(START)["iou"]
        write_trial(ledger, proposal, effect, proposal.config.seed)
    return study, ledger


def test_proposals_are_ranked_and_only_confirmed_ones_are_compared(searched):
    _, ledger = searched
    ranked = searches.rank_proposals(searches.load_searches([ledger]))
    assert len(ranked) == 6
    assert ranked["rank"].tolist() == [0, 0, 1, 2, 3, 4]  # two of the points have equal objectives
    assert ranked["iou"].is_monotonic_decreasing
    assert set(ranked["status"]) == {"complete"}
    confirmed = tables.load([ledger])
    assert len(confirmed.trials) == 4
    assert set(confirmed.trials["seed"]) == {1, 2}
    found = compare_configurations(confirmed, name_configurations([ledger]))
    assert found["baseline"].sum() == (~found["baseline"]).sum() > 0
    assert found["configuration"].iloc[0] == "0: paper: ε, linear"


@pytest.mark.slow
def test_the_command_and_the_report_show_a_search(searched, tmp_path):
    _, ledger = searched
    options = ["--store", ledger.root.rpartition("/")[0]]
    rows = json.loads(CliRunner().invoke(main, ["best", "searched", "--held-out", *options, "--json"]).stdout)
    assert [row["rank"] for row in rows] == [0, 0, 1, 2, 3, 4]
    rows = json.loads(CliRunner().invoke(main, ["best", "searched", *options, "--json"]).stdout)
    assert [row["scored_on"] for row in rows] == ["test"] * 4
    assert "paper: ε" in CliRunner().invoke(main, ["best", "searched", *options]).output
    assert len(json.loads(CliRunner().invoke(main, ["status", "searched", *options, "--json"]).output)) == 6 + 4
    found = json.loads(CliRunner().invoke(main, ["plan", "searched", *options, "--json"]).output)
    assert found["missing"] == 0
    page = write_report([ledger], tmp_path / "report.html").read_text()
    assert '<h2 id="searches">' in page
    assert "Against the baseline" in page


def test_a_search_without_confirmations_has_a_report(tmp_path):
    study, ledger = study_of(budget=3), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    carry_out(study, ledger)
    for trial in study.known_trials(ledger):
        write_trial(ledger, trial, 0.0, 0)
    page = write_report([ledger], tmp_path / "report.html").read_text()
    assert '<h2 id="searches">' in page
    assert "Against the baseline" not in page


def test_a_search_that_has_only_begun_is_shown(tmp_path):
    study, ledger = study_of(budget=6), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    Scheduler(study, ledger).next_trial()
    found = searches.rank_proposals(searches.load_searches([ledger]))
    assert found["status"].tolist() == ["running"]
    assert found["rank"].isna().all()
    result = CliRunner().invoke(main, ["best", "searched", "--store", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (
        json.loads(CliRunner().invoke(main, ["plan", "searched", "--store", str(tmp_path), "--json"]).output)["missing"]
        == 6
    )


def test_the_fingerprint_question_has_its_baseline_and_all_profiles():
    study = read_study("fingerprint-question", {"isic16": "/a", "monuseg": "/b"}, {})
    named = {trial.name: trial.config for trial in study.trials}
    base = [named[name].diffusion for name, variant in study.variants.items() if variant == study.baseline]
    assert len(base) == 2 * 5
    assert {(diffusion.weighting, diffusion.density) for diffusion in base} == {("uniform", "uniform")}
    e2 = [config for config in named.values() if config.experiment == "e2"]
    kinds = {
        (c.diffusion.weighting, c.diffusion.density, c.diffusion.fingerprint) for c in e2 if c.fingerprint_trials()
    }
    assert len(kinds) == 6
    assert {(c.data.name, c.training.steps) for c in e2} == {("isic16", 400), ("monuseg", 300)}
    assert len(e2) == 2 * 5 * 9


def written_study(store, settings, variant_of, baseline="plain"):
    """A study of trials with these settings, each with four seeds and, if it has one, a variant."""
    ledger, trials, variants = Ledger(str(store), "written"), [], {}
    for number, leaves in enumerate(settings):
        for seed in range(SEEDS):
            config = Config().with_leaves({"diffusion.target": "x0", "seed": seed} | leaves).resolved()
            trial = Trial(trial_name(config), config)
            write_trial(ledger, trial, 0.1 * number, seed)
            trials.append(trial)
            variants[trial.name] = variant_of(leaves)
    ledger.define(Study("written", tuple(trials), {}, variants=variants, baseline=baseline).definition())
    return tables.load([ledger])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "other",
    [
        {"inference.resolution": "original", "data.layout": "folder"},
        {"inference.steps": 7},
        {"data.normalise": "case"},
        {"data.size": 128},
        {"training.steps": 77},
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_trials_that_differ_in_any_setting_are_series_of_their_own(other, named, tmp_path):
    """Also where the study gained the setting later, and so both have one variant's name."""
    found = written_study(tmp_path, [{}, other], lambda leaves: "plain" if named else "")
    assert found.trials["series"].nunique() == found.trials["variant"].nunique() == 2
    assert set(found.trials.groupby("series").size()) == {SEEDS}


def test_settings_that_follow_from_others_are_not_named(tmp_path):
    """The ε-target samples with more steps by default."""
    found = written_study(
        tmp_path, [{"experiment": "e2"}, {"experiment": "e2", "diffusion.target": "epsilon"}], lambda leaves: ""
    )
    assert set(found.trials["variant"]) == {"x0", "ε"}


def test_of_two_experiments_of_one_variant_the_diffusion_is_the_baseline(tmp_path):
    settings = [{"experiment": "e1"}, {"experiment": "e2"}, {"experiment": "e2", "diffusion.weighting": "min-snr"}]
    found = written_study(tmp_path, settings, lambda leaves: leaves.get("diffusion.weighting", "plain"))
    rows = compare_configurations(found, name_configurations(list(found.ledgers)))
    rows = rows[rows["metric"] == "iou"].set_index("configuration")
    assert set(rows.index) == {"E1", "E2 plain", "E2 min-snr"}
    assert rows.index[rows["baseline"]].tolist() == ["E2 plain"]
    assert rows.loc["E1", "difference"] == pytest.approx(-0.1)
    assert rows.loc["E2 min-snr", "difference"] == pytest.approx(0.1)


@pytest.mark.parametrize("unit", ["mm", "px"])
def test_distances_have_their_unit(unit, tmp_path):
    ledger, trials = Ledger(str(tmp_path), "distances"), []
    for seed in range(2):
        config = Config().with_leaves({"experiment": "e1", "seed": seed}).resolved()
        trials.append(Trial(trial_name(config), config))
        rows = attempt(config, trials[-1].name)
        rows["trials"][0] |= {"study": "distances", "hd95": 3.0, "distance_unit": unit}
        rows["images"] = [
            {"image": f"{k}", "metric": metric, "value": 3.0 + seed + k} for k in range(4) for metric in ("hd95", "iou")
        ]
        ledger.write(trials[-1].name, 1, rows)
    variants = {trial.name: "plain" for trial in trials}
    ledger.define(Study("distances", tuple(trials), {}, variants=variants, baseline="plain").definition())
    rows = compare_configurations(tables.load([ledger]), name_configurations([ledger])).set_index("metric")
    assert (rows.loc["hd95", "unit"], rows.loc["iou", "unit"]) == (unit, "")
    found = CliRunner().invoke(main, ["compare", "distances", "--store", str(tmp_path)])
    assert f"HD95 in {unit}, synthetic-large" in found.output
