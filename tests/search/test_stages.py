"""Searches whose proposals have several trials: cheaper ones first, and one for each part that is held out."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from test_search import START, planted

from analysis.searches import best_proposals, load_searches
from diffseg.config import Config
from diffseg.errors import ConfigError, UserError
from diffseg.randomness import seed_of
from search_spaces import INITIAL_POINTS
from studies.commands.program import main
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.engine.resources import Resources
from studies.engine.scheduler import Scheduler
from studies.planning.machine import Speed
from studies.planning.plan import plan
from studies.search.proposals import read_proposals
from studies.search.search import check_start, parse
from studies.search.warm_start import take_priors
from studies.store.best import best_trials, name_configurations
from studies.store.ledger import Ledger
from studies.store.state import count_statuses, trial_states

IMAGES = 24
CHEAP = {"training.steps": 300, "data.size": 32}
CHEAPER = {"training.steps": 100, "data.size": 32}
FULL = START.with_leaves({"training.evaluations": []}).resolved()


def study_of(start=FULL, **settings):
    search = parse({"space": "schedule", "budget": 16, "sampler": "random", "confirm": "2x2"} | settings)
    return Study("searched", (), {}, search=search, starts=(Trial(trial_name(start), start),))


def end(ledger, trial, noise=0.02, change=0.02):
    """Complete a trial: what images reach is the planted value, their difficulty, and luck; at a fidelity values are lower."""
    config, images = trial.config, np.random.default_rng(trial.config.data.fold)
    draw = np.random.default_rng(seed_of(0, trial.name))
    cheap = config.training.steps < 900
    values = planted(config)["iou"] + images.normal(0, 0.1, IMAGES) + noise * draw.normal(0, 1, IMAGES)
    values += (change * draw.normal() - 0.2) * cheap
    names = (
        [f"{config.data.fold}-{k}" for k in range(IMAGES)]
        if config.data.held_out
        else [f"test-{k}" for k in range(IMAGES)]
    )
    rows = [
        {"image": name, "class": "all", "metric": "iou", "value": float(value)}
        for name, value in zip(names, values, strict=True)
    ]
    row = {"status": "complete", "iou": float(values.mean()), "ece": 0.1, "seconds": float(config.training.steps)}
    row |= {
        "steps": config.training.steps,
        "dataset": config.data.name,
        "scored_on": trial.scored_on,
        "test_images": IMAGES,
    }
    ledger.write(trial.name, ledger.last_attempts().get(trial.name, 0) + 1, {"trials": [row], "images": rows})


def carry_out(study, ledger, killed_at=(), side_by_side=1):
    """Run the scheduler's trials; return their configurations in the order in which they began.

    killed_at: numbers of the trials, from 1, during which the process dies.
    """
    ledger.define(study.definition())
    scheduler, begun, busy = Scheduler(study, ledger), [], {}
    while True:
        while len(busy) < side_by_side and (trial := scheduler.next_trial(set(busy))):
            begun.append(trial)
            busy[trial.name] = trial
            if len(begun) in killed_at:
                scheduler = Scheduler(study, ledger)
                assert scheduler.next_trial(set(busy) - {trial.name}) == trial
        if not busy:
            assert scheduler.done()
            return [trial.config for trial in begun]
        end(ledger, busy.pop(min(busy)))


def tried_in(study, ledger):
    (one,) = load_searches([ledger])
    return one


class TestFidelities:
    def test_each_proposal_is_tried_at_every_fidelity_and_goes_on_unless_it_is_surely_behind(self, tmp_path):
        study, ledger = study_of(fidelities=[CHEAPER, CHEAP]), Ledger(str(tmp_path), "searched")
        configs = carry_out(study, ledger)
        searched = [config for config in configs if config.data.held_out]
        numbers = [sum(config.training.steps == steps for config in searched) for steps in (100, 300, 900)]
        assert numbers[0] == 16 > numbers[1] > numbers[2] > 2
        assert {config.data.size for config in searched if config.training.steps < 900} == {32}
        frame = tried_in(study, ledger).frame
        behind = frame[frame["status"] == "pruned"]
        assert len(behind) == 16 - numbers[2]
        assert behind["error"].str.contains("surely behind .* at fidelity [12]").all()
        assert frame.loc[0, "status"] == "complete"  # the start
        assert frame.loc[frame["status"] == "complete", "iou"].max() == pytest.approx(frame["iou"].max())
        assert frame["hours"].iloc[-1] == pytest.approx(sum(config.training.steps for config in searched) / 3600)
        assert (behind["iou"].isna() & behind["rank"].isna()).all()

    @pytest.mark.slow
    def test_a_good_proposal_is_not_held_back(self, tmp_path):
        """The quality at a fidelity is off by 2 points of IoU, and the best proposals differ by as much."""
        lost = []
        for seed in range(5):
            study = study_of(FULL.with_leaves({"seed": seed}).resolved(), fidelities=[CHEAP])
            ledger = Ledger(str(tmp_path / str(seed)), "searched")
            carry_out(study, ledger)
            tried = tried_in(study, ledger).tried
            values = {one.proposal.number: planted(one.proposal.config)["iou"] for one in tried if one.proposal.config}
            lost.append(max(values.values()) - max(values[one.proposal.number] for one in tried if one.losses))
        assert np.mean(lost) < 0.01

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    def test_an_interrupted_search_has_the_same_trials(self, sampler, tmp_path):
        study = study_of(fidelities=[CHEAP], folds=2, sampler=sampler)
        whole = carry_out(study, Ledger(str(tmp_path / "whole"), "searched"))
        killed = carry_out(study, Ledger(str(tmp_path / "killed"), "searched"), killed_at=(4, 9, 17))
        assert killed == whole

    @pytest.mark.slow
    def test_trials_side_by_side_are_distinct_and_of_every_proposal_one_at_a_time(self, tmp_path):
        study, ledger = study_of(fidelities=[CHEAP], folds=2), Ledger(str(tmp_path), "searched")
        names = [trial_name(config) for config in carry_out(study, ledger, side_by_side=3)]
        assert len(set(names)) == len(names)

    def test_the_sampler_knows_what_was_reached_at_fidelities(self, tmp_path):
        from studies.search.sampling import Sampler

        study, ledger = study_of(fidelities=[CHEAP]), Ledger(str(tmp_path), "searched")
        carry_out(study, ledger)
        one, (start,) = tried_in(study, ledger), study.starts
        frozen = Sampler(study.search, start.name, start.config).to_optuna(one.tried)
        held_back = [trial for trial in frozen if trial.intermediate_values]
        assert len(held_back) == (one.frame["status"] == "pruned").sum() > 2
        assert all(
            list(trial.intermediate_values) == [-1] for trial in held_back
        )  # before the first step of a whole trial

    @pytest.mark.slow
    def test_status_and_plan_count_the_trials_that_there_are(self, tmp_path, planned_rows):
        study, ledger = study_of(fidelities=[CHEAP], folds=2, confirm="0x0"), Ledger(str(tmp_path), "searched")
        before = planned_rows(study, ledger)
        assert [row["count"] for row in before] == [16, 16, 16]
        begun = carry_out(study, ledger)
        assert count_statuses(trial_states(study, ledger))["complete"] == len(begun) == len(study.known_trials(ledger))
        assert not Scheduler(study, ledger).planned()[1:]  # but for the search's start
        assert planned_rows(study, ledger) == []


@pytest.fixture
def planned_rows(monkeypatch):
    """A function that plans a study without measuring this machine, and returns the rows of trials that are missing."""
    monkeypatch.setattr("studies.planning.plan.machine_speed", lambda *_: Speed(1e9, 1e10))

    def planned(study, ledger):
        return [row for row in plan(study, ledger, Resources())["trials"] if row["missing"]]

    return planned


class TestFolds:
    def test_a_proposal_is_measured_on_every_part_and_counts_by_its_mean(self, tmp_path):
        study, ledger = study_of(folds=3, pruning=0), Ledger(str(tmp_path), "searched")
        configs = carry_out(study, ledger)
        assert sorted(config.data.fold for config in configs if config.data.held_out) == [0] * 16 + [1] * 16 + [2] * 16
        rows, one = {row["trial"]: row for row in ledger.last_rows()}, tried_in(study, ledger)
        for tried, shown in zip(one.tried, one.frame["iou"], strict=True):
            names = [trial_name(tried.proposal.config.with_leaves({"data.fold": fold}).resolved()) for fold in range(3)]
            assert shown == pytest.approx(np.mean([rows[name]["iou"] for name in names]))
            assert tried.losses == (pytest.approx(-shown),)
        assert one.ranking[0].estimates[0].deviation < 0.02 / np.sqrt(2 * IMAGES)  # of all parts together
        assert one.ranking[0].proposal.number == one.frame["iou"].argmax()
        confirmed = [config for config in configs if not config.data.held_out]
        assert {(config.data.fold, config.seed) for config in confirmed} == {(0, 1), (0, 2)}
        assert len(best_trials(study, ledger, "iou", pareto=False)) == len(confirmed) >= 4

    def test_the_least_share_grows_with_a_small_set_and_is_unknown_to_confirmations(self, tmp_path):
        study = study_of(FULL.with_leaves({"data.held_out_least": 30}).resolved(), budget=3)
        configs = carry_out(study, Ledger(str(tmp_path), "searched"))
        assert {(config.data.held_out, config.data.held_out_least) for config in configs} == {(0.2, 30), (0.0, 0)}


def test_best_and_status_name_the_trials_that_there_are_and_say_which_they_are(tmp_path):
    study, ledger = study_of(fidelities=[CHEAPER, CHEAP], folds=2, confirm="0x0"), Ledger(str(tmp_path), "searched")
    carry_out(study, ledger)
    known = {trial.name for trial in study.known_trials(ledger)}
    rows = best_proposals(ledger, [study.starts[0].name], None, pareto=False)
    assert {row["status"] for row in rows} == {"complete", "pruned"}
    assert {row["trial"] for row in rows} <= known
    labels = name_configurations(study, ledger)
    assert all(re.search(", fidelity [12]$", labels[row["trial"]]) for row in rows if row["status"] == "pruned")
    start = [labels[stage.trial] for stage in tried_in(study, ledger).tried[0].stages]
    name = next(iter(INITIAL_POINTS))
    assert start == [f"0: {name}, {label}" for label in ("fidelity 1", "fidelity 2", "part 1 of 2", "part 2 of 2")]
    shown = CliRunner().invoke(main, ["status", "searched", "--store", str(tmp_path)]).output
    assert "fidelity 2" in shown
    assert "part 2 of 2" in shown


@pytest.mark.parametrize(("limit", "exceeded"), [(901, False), (899, True)])
def test_a_limit_on_a_cost_is_judged_and_described_by_the_proposals_own_trial(limit, exceeded, tmp_path):
    """A trial of 900 steps takes 900 s, each of its fidelities 300 s, and there are two parts."""
    constraints = {"seconds": limit, "steps": limit}
    study = study_of(fidelities=[CHEAP], folds=2, constraints=constraints, budget=3, confirm="0x0")
    ledger = Ledger(str(tmp_path), "searched")
    carry_out(study, ledger)
    one = tried_in(study, ledger)
    (start,) = one.frame[one.frame["number"] == 0].to_dict("records")
    assert (one.tried[0].eligible, np.isnan(start["rank"])) == (not exceeded, exceeded)
    words = "seconds 900, but search.constraints allows 899; steps 900, but search.constraints allows 899"
    assert start["error"] == (words if exceeded else None)


def test_another_search_starts_from_one_of_several_stages(tmp_path):
    study, ledger = study_of(fidelities=[CHEAP], folds=2), Ledger(str(tmp_path), "searched")
    carry_out(study, ledger)
    other = Ledger(str(tmp_path), "other")
    later = Study("other", (), {}, search=parse({"space": "schedule", "warm_start": ["searched"]}), starts=study.starts)
    (priors,) = take_priors(later, other, print).priors.values()
    complete = {one.proposal.number: one.losses for one in tried_in(study, ledger).tried if one.losses}
    assert {one.number: one.losses for one in priors if one.first}.items() <= complete.items()


@pytest.mark.parametrize(
    ("search", "start", "words"),
    [
        ({"fidelities": [CHEAP], "pruning": 0}, {}, "^search.fidelities: fidelities are given, but pruning is 0"),
        ({"fidelities": [{"training.step": 100}]}, {}, r"search.fidelities.1: there is no setting training.step"),
        ({"fidelities": [{}]}, {}, r"search.fidelities: got .*; write \[\[search.fidelities\]\]"),
        ({"fidelities": "fast"}, {}, r"search.fidelities: got .*; write \[\[search.fidelities\]\]"),
        ({"fidelities": [CHEAP, {"seed": 3}]}, {}, r"search.fidelities.2: seed cannot vary"),
        ({"fidelities": [{"data.train_images": 10}]}, {}, r"search.fidelities.1: data.train_images cannot vary, since"),
        ({"fidelities": [{"data.fold": 1}]}, {}, r"search.fidelities.1: data.fold cannot vary"),
        (
            {"fidelities": [{"training.steps": 900}]},
            {},
            r"search.fidelities.1: training.steps is 900 in the search's start, too",
        ),
        (
            {"fidelities": [CHEAP, {"training.steps": 1000}]},
            {},
            r"search.fidelities.2: training.steps is 1000, but 900 in the search's start: give a smaller value",
        ),
        ({"fidelities": [{"training.steps": 0}]}, {}, r"search.fidelities.1: training.steps: got 0"),
        (
            {"fidelities": [{"diffusion.schedule": "linear"}]},
            {},
            r"search.fidelities.1: diffusion.schedule is set by search.space",
        ),
        ({"folds": 6}, {}, r"search.folds is 6, but of data: fold is 5, .* there are 5 parts: allowed are 0 to 4"),
        ({"folds": 2}, {"data.fold": 1}, r"data.fold is 1, but with search.folds=2 the search sets it"),
        ({"folds": 0}, {}, r"search.folds: got 0"),
        ({}, {"data.held_out": 0.0, "data.fold": 1}, "fold is 1, but held_out is 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_runs(search, start, words):
    with pytest.raises(UserError, match=words) as refused:
        check_start(FULL.with_leaves(start).resolved(), parse({"space": "schedule"} | search))
    assert "\n" not in str(refused.value)


def test_a_proposal_that_a_fidelity_refuses_is_refused(tmp_path):
    space = {"inference.grid": {"choices": ["uniform", "least-kl"]}, "training.batch": {"low": 2, "high": 16}}
    start = FULL.with_leaves({"inference.steps": 10}).resolved()
    study = study_of(start, space=space, fidelities=[{"inference.steps": 500}], budget=12)
    ledger = Ledger(str(tmp_path), "searched")
    carry_out(study, ledger)
    reasons = [one.reason for one in read_proposals(ledger) if one.settings.get("inference.grid") == "least-kl"]
    assert reasons
    assert all("refused: " in reason and "but inference.steps is 500" in reason for reason in reasons)


def test_a_changed_stage_is_another_search():
    one = parse({"space": "schedule", "fidelities": [CHEAP]})
    assert one.differences(parse({"space": "schedule"}))
    assert one.differences(parse({"space": "schedule", "fidelities": [CHEAP], "folds": 2})) == ["search.folds: 1 → 2"]
    assert isinstance(FULL, Config)
    assert issubclass(ConfigError, UserError)
