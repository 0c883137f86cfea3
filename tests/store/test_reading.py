"""The commands that read a study, with all their options, on small ledgers: status, best, plan, compare, report."""

import json
import re

import pytest
from click.testing import CliRunner
from test_measurements import leaving_out, ledger_of
from test_search import carry_out, planted, study_of
from test_search import end as end_trial

from diffseg.config import Config
from diffseg.evaluation.registry import METRICS
from studies.commands.program import main
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.store.best import best_trials
from studies.store.ledger import Ledger
from studies.store.state import trial_states

NUMBERS = {"iou": 0.8, "dice": 0.9, "ece": 0.01, "brier": 0.05, "nll": 0.2}


def call(*arguments, store):
    """Run a command that succeeds, and return its output."""
    result = CliRunner().invoke(main, [*arguments, "--store", str(store)])
    assert result.exit_code == 0, result.output
    return result.output


def call_json(*arguments, store):
    """Run a command with --json, and return its rows."""
    result = CliRunner().invoke(main, [*arguments, "--json", "--store", str(store)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def trial_of(**leaves):
    """Return a trial with the given settings."""
    config = Config().with_leaves({key.replace("__", "."): value for key, value in leaves.items()}).resolved()
    return Trial(trial_name(config), config)


def write(ledger, trial, status="complete", **numbers):
    """Write the row of a trial into the ledger."""
    row = {"status": status, "experiment": trial.config.experiment, "dataset": trial.config.data.name}
    row |= {"network": trial.config.network.name, "seed": trial.config.seed, "test_images": 40}
    ledger.write(trial.name, 1, {"trials": [row | (NUMBERS if status == "complete" else {}) | numbers]})


@pytest.fixture
def grid(tmp_path):
    """Three variants of E2 on two data sets, whose ECE rises with their IoU, and a trial with held-out images."""
    ledger, trials = Ledger(str(tmp_path), "grid"), {}
    for place, dataset in enumerate(("b", "a")):
        for k, weighting in enumerate(("uniform", "snr+1", "min-snr")):
            leaves = {"data__name": dataset, "diffusion__target": "x0", "diffusion__weighting": weighting}
            trial = trials[trial_of(**leaves)] = weighting
            trial = list(trials)[-1]
            write(ledger, trial, iou=0.7 + k / 100 - place / 10, ece=0.1 + k / 100, brier=0.3 - k / 100)
    held = trial_of(data__name="a", data__held_out=0.2)
    write(ledger, held, iou=0.99, ece=0.001)
    variants = {trial.name: name for trial, name in trials.items()}
    ledger.define(Study("grid", (*trials, held), {}, variants=variants, baseline="uniform").definition())
    return tmp_path


@pytest.mark.parametrize("metric", ["iou", "dice", "ece", "brier", "nll"])
@pytest.mark.parametrize("pareto", [[], ["--pareto"]])
def test_best_orders_by_the_metric_with_and_without_the_front(grid, metric, pareto):
    rows = call_json("best", "grid", "--metric", metric, *pareto, store=grid)
    assert [row["dataset"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert {row["scored_on"] for row in rows} == {"test"}
    for dataset in ("a", "b"):
        values = [row[metric] for row in rows if row["dataset"] == dataset]
        assert values == sorted(values, reverse=METRICS[metric].larger_is_better)
    text = call("best", "grid", "--metric", metric, *pareto, store=grid)
    assert metric in text.splitlines()[1]  # below the name of the data set
    assert "snr+1" in text


def test_held_out_numbers_are_not_among_the_best_and_are_marked_in_the_status(grid):
    rows = call_json("status", "grid", store=grid)
    assert [row["scored_on"] for row in rows] == ["test"] * 6 + ["held-out"]
    text = call("status", "grid", store=grid)
    assert sum("  held-out  " in line for line in text.splitlines()) == 1
    assert "scored on" in text
    assert "0.990" not in call("best", "grid", store=grid)


def test_the_status_has_no_column_scored_on_if_all_trials_are_tested(tmp_path):
    ledger, trial = Ledger(str(tmp_path), "plain"), trial_of()
    ledger.define(Study("plain", (trial,), {}).definition())
    write(ledger, trial)
    assert "scored on" not in call("status", "plain", store=tmp_path)


@pytest.mark.parametrize(
    ("status", "numbers", "done", "text"),
    [
        ("complete", {}, 1.0, "100%"),
        ("pruned", {"steps": 25}, 0.25, "25%"),
        ("pruned", {}, 0.0, "0%"),
        ("failed", {"error": "the loss is nan"}, None, "nan"),
        (None, {}, 0.0, "0%"),
    ],
)
def test_the_status_shows_the_share_of_the_training_that_is_done(tmp_path, status, numbers, done, text):
    ledger, trial = Ledger(str(tmp_path), "study"), trial_of(training__steps=100)
    study = Study("study", (trial,), {})
    ledger.define(study.definition())
    if status:
        write(ledger, trial, status, **numbers)
    (row,) = call_json("status", "study", store=tmp_path)
    assert row["done"] == done
    assert text in call("status", "study", store=tmp_path)
    (state,) = trial_states(study, ledger)
    assert state.work_done == (1.0 if status else 0.0)


def test_trials_that_an_older_definition_scored_on_held_out_images_are_left_out(tmp_path):
    ledger, trials = Ledger(str(tmp_path), "study"), [trial_of(seed=seed) for seed in range(3)]
    study = Study("study", (trials[0],), {})
    ledger.define(study.definition())
    for trial, scored_on in zip(trials, ("test", "held-out", "test"), strict=True):
        write(ledger, trial, scored_on=scored_on)
    found = {row["trial"] for row in best_trials(study, ledger, "iou", pareto=False)}
    assert found == {trials[0].name, trials[2].name}


def test_a_name_that_fits_no_trial_is_answered_with_the_nearest_five(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    ledger.define(Study("study", tuple(trial_of(seed=seed) for seed in range(30)), {}).definition())
    result = CliRunner().invoke(main, ["show", "study", "e2-ensemdiff-s7", "--store", str(tmp_path)])
    assert result.exit_code == 2
    near = re.findall(r"e2-\S*-ensemdiff-s\d+-\w+", result.output.partition("the nearest are ")[2])
    assert len(near) == 5
    assert "-s7-" in near[0]
    wanted = trial_of(seed=7).name
    wrong = wanted[:-1] + ("0" if wanted[-1] != "0" else "1")
    result = CliRunner().invoke(main, ["show", "study", wrong, "--store", str(tmp_path)])
    assert f"the nearest are {wanted}," in result.output
    assert "`diffseg status study` lists all 30" in result.output
    result = CliRunner().invoke(main, ["show", "study", "e2-", "--store", str(tmp_path)])
    assert "'e2-' fits 30 trials" in result.output
    assert result.output.count("ensemdiff") == 10


def test_nan_is_left_out_of_orders_and_output(tmp_path):
    ledger, trials = Ledger(str(tmp_path), "study"), [trial_of(seed=seed) for seed in range(3)]
    study = Study("study", tuple(trials), {})
    ledger.define(study.definition())
    for trial, ncc in zip(trials, (0.1, float("nan"), 0.3), strict=True):
        write(ledger, trial, ncc=ncc)
    assert [row["ncc"] for row in best_trials(study, ledger, "ncc", pareto=False)] == [0.3, 0.1]
    write(ledger, trials[0], ece=float("nan"))
    assert len(best_trials(study, ledger, "iou", pareto=True)) == 2
    assert "nan" not in call("best", "study", store=tmp_path)


def test_images_that_a_mean_leaves_out_are_counted_beside_it(tmp_path):
    ledger, trial = Ledger(str(tmp_path), "study"), trial_of()
    ledger.define(Study("study", (trial,), {}).definition())
    write(ledger, trial, ncc=0.5, left_out=json.dumps({"ncc": 3, "ece_boundary": 5}))
    (row,) = call_json("best", "study", "--metric", "ncc", store=tmp_path)
    assert row["left_out"] == {"ncc": 3, "ece_boundary": 5}
    text = " ".join(call("best", "study", "--metric", "ncc", store=tmp_path).split())
    assert "0.500 (37 of 40)" in text
    assert "mean over n of N images" in text
    assert "of 40" not in call("best", "study", store=tmp_path)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A store with a search that has no confirmations yet, and its confirmed twin."""
    store = tmp_path_factory.mktemp("search")
    for name, confirm in (("open", "0x0"), ("confirmed", "1x2")):
        study, ledger = study_of(budget=6, confirm=confirm), Ledger(str(store), name)
        ledger.define(study.definition())
        carry_out(study, ledger)
        for trial in study.known_trials(ledger):
            numbers = planted(trial.config) | {"dataset": trial.config.data.name, "seed": trial.config.seed}
            numbers["iou"] -= 0.05 * (trial.scored_on == "test")
            end_trial(ledger, trial, **numbers)
    return store


def test_unconfirmed_proposals_are_shown_and_marked_as_held_out(search):
    rows = call_json("best", "open", store=search)
    assert [row["rank"] for row in rows] == [0, 0, 1, 2, 3, 4]
    assert {row["scored_on"] for row in rows} == {"held-out"}
    assert all(row["trial"] for row in rows)
    text = call("best", "open", store=search)
    assert "held-out" in text
    assert rows[0]["trial"] in text


def test_after_confirmation_the_best_are_the_confirmed_on_test_images(search):
    rows = call_json("best", "confirmed", store=search)
    assert len(rows) == 2 * 2
    assert {row["scored_on"] for row in rows} == {"test"}
    assert {row["seed"] for row in rows} == {1, 2}
    assert any(row["configuration"] == "0: paper: ε, linear" for row in rows)
    ledger = Ledger(str(search), "confirmed")
    tested = {row["trial"]: row["iou"] for row in ledger.last_rows(["iou"])}
    assert all(row["iou"] == tested[row["trial"]] for row in rows)
    result = CliRunner().invoke(main, ["best", "confirmed", "--store", str(search)])
    assert "held-out" not in result.stdout
    assert rows[0]["trial"] in result.stdout
    assert "6 scored on held-out training images, which --held-out lists" in result.stderr
    front = call_json("best", "confirmed", "--pareto", store=search)
    assert 0 < len(front) <= len(rows)


def test_all_proposals_are_listed_with_held_out(search):
    rows = call_json("best", "confirmed", "--held-out", store=search)
    assert len(rows) == 6
    assert {row["scored_on"] for row in rows} == {"held-out"}
    assert len(call_json("best", "confirmed", "--held-out", "--pareto", store=search)) == 2


@pytest.mark.parametrize("metric", ["iou", "ece"])
@pytest.mark.parametrize("pareto", [[], ["--pareto"]])
def test_proposals_are_ordered_by_the_requested_metric(search, metric, pareto):
    values = [row[metric] for row in call_json("best", "open", "--metric", metric, *pareto, store=search)]
    assert values == sorted(values, reverse=METRICS[metric].larger_is_better)


def test_best_is_refused_before_any_trial_has_ended(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    ledger.define(Study("study", (trial_of(),), {}).definition())
    for options in ([], ["--held-out"], ["--pareto"]):
        result = CliRunner().invoke(main, ["best", "study", *options, "--store", str(tmp_path)])
        assert result.exit_code == 2
        assert "has measured a segmentation yet" in result.output


def test_best_by_a_metric_that_no_trial_has_is_refused(search, tmp_path):
    """The proposals of a search lack it too, and an empty column gives no order."""
    ledger, trial = Ledger(str(tmp_path), "plain"), trial_of()
    ledger.define(Study("plain", (trial,), {}).definition())
    result = CliRunner().invoke(main, ["best", "plain", "--metric", "ged", "--store", str(tmp_path)])
    assert "has measured a segmentation yet" in result.output
    write(ledger, trial)
    for study, store in (("plain", tmp_path), ("open", search)):
        result = CliRunner().invoke(main, ["best", study, "--metric", "ged", "--store", str(store)])
        assert result.exit_code == 2
        assert f"no trial of {study} has measured ged: choose another --metric" in result.output


@pytest.mark.parametrize("command", ["status", "run", "plan", "best", "retry", "report"])
@pytest.mark.parametrize("study", ["quickstart", "nosuch"])
def test_a_missing_study_is_answered_with_the_command_that_starts_it(command, study, tmp_path):
    if study == "quickstart" and command in ("run", "plan"):
        return
    result = CliRunner().invoke(main, [command, study, "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert f"there is no study '{study}' in the store" in result.output
    assert ("`diffseg run quickstart` starts one;" in result.output) == (study == "quickstart")
    assert ("`diffseg run` starts one from " in result.output) == (study == "nosuch")


def count(plan, start):
    """Count the missing trials whose names begin with `start`."""
    return sum(row["count"] for row in plan["trials"] if row["trial"].startswith(start) and row["missing"])


@pytest.mark.parametrize(
    ("settings", "proposed", "confirmed", "measured"),
    [
        ({"budget": 6}, 6, 0, 0),
        ({"budget": 6, "confirm": "2x3"}, 6, 9, 0),
        ({"budget": 6, "space": "fingerprint"}, 6, 0, 1),
        ({"budget": 6, "space": "everything", "confirm": "1x2"}, 6, 4, 1),
        ({"budget": 6, "space": "weighting", "confirm": "1x2"}, 6, 4, 0),
    ],
)
def test_plan_counts_the_missing_trials_of_searches(tmp_path, settings, proposed, confirmed, measured):
    study, ledger = study_of(**settings), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    found = call_json("plan", "searched", store=tmp_path)
    assert (count(found, "e2"), count(found, "confirmations"), count(found, "e3")) == (proposed, confirmed, measured)
    assert found["missing"] == proposed + confirmed + measured
    total = sum(row["count"] for row in found["trials"])
    assert f"{found['missing']} of {total} trials to do" in call("plan", "searched", store=tmp_path)


def test_plan_counts_down_to_zero(tmp_path):
    study, ledger = study_of(budget=4, confirm="1x2"), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    assert call_json("plan", "searched", store=tmp_path)["missing"] == 4 + 4
    carry_out(study, ledger)
    found = call_json("plan", "searched", store=tmp_path)
    assert (found["missing"], sum(row["count"] for row in found["trials"])) == (0, 8)


def test_plan_counts_the_members_of_ensembles_and_the_trials_of_fingerprints(tmp_path):
    source = tmp_path / "study.toml"
    source.write_text(
        'experiments = ["e1", "e2"]\n[all]\ntraining.steps = 10\n[data.synthetic-large]\ndata.layout = "synthetic"\n'
        "[experiment.e1]\ninference.seeds = [0, 1, 2]\n"
        '[experiment.e2]\ndiffusion.weighting = "fingerprint"\ndiffusion.fingerprint_seeds = [0, 1]\n'
    )
    found = call_json("plan", str(source), store=tmp_path)
    assert found["missing"] == (3 + 1) + (2 + 1)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A study of E1 and E2 on slices of patients, where two slices are NaN for one seed of E2, and a twin of one seed."""
    store = tmp_path_factory.mktemp("slices")
    ledger_of(store, leaving_out({"3", "7"}, float("nan")))
    ledger_of(store, seeds=1, name="single")
    return store


def test_compare_reports_the_numbers_of_images_and_patients(slices):
    rows = {(row["configuration"], row["metric"]): row for row in call_json("compare", "study", store=slices)}
    e1, e2 = rows["e1", "iou"], rows["e2", "iou"]
    assert (e1["images"], e1["left_out"], e1["units"]) == (48, 0, 8)
    assert (e2["images"], e2["left_out"], e2["units"], e2["pairs"]) == (46, 2, 8, 46)
    assert e2["difference_low"] < e2["difference"] < e2["difference_high"]
    assert (e1["baseline"], "p" in e2) == (True, True)
    text = " ".join(call("compare", "study", store=slices).split())
    assert "46 of 48" in text
    assert "Images that are NaN for a seed are left out" in text
    assert "one seed" not in text
    text = " ".join(call("compare", "single", store=slices).split())
    assert "Those of one seed speak of units alone" in text
    assert "nan" not in text.lower().replace("ensemdiff", "")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("studies", [["study"], ["study", "single"], ["single"]])
def test_report_has_one_or_several_studies(slices, tmp_path, studies):
    path, png = tmp_path / "some" / "page.html", tmp_path / "png"
    assert call("report", *studies, "--output", str(path), "--png", str(png), store=slices).strip() == str(path)
    page = " ".join(path.read_text().split("<script>")[0].split())
    assert "46 of 48" in page or studies == ["single"]
    assert ("One seed: intervals cover patients or images only" in page) == (studies == ["single"])
    assert "Studies compared" in page or len(studies) == 1
    assert list(png.iterdir())
    assert not re.findall(r"[>+(±=]\s*-?nan", page, re.IGNORECASE)


def test_report_is_written_into_the_studys_folder_and_needs_a_trial_that_has_ended(slices, tmp_path):
    assert call("report", "single", store=slices).strip() == str(slices / "single" / "report.html")
    Ledger(str(tmp_path), "new").define(Study("new", (trial_of(),), {}).definition())
    result = CliRunner().invoke(main, ["report", "new", "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert "no trial of new has ended yet" in result.output
