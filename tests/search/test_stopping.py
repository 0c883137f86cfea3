"""The rules by which a search ends before its budget: each stops it, says so, and continues with a larger limit."""

import datetime
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TINY
from test_own_spaces import HEAD
from test_search import START, carry_out, end, planted, study_of

from analysis.report import write_report
from analysis.searches import load_searches
from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.evaluation.pareto import losses
from search_spaces import INITIAL_POINTS, SpaceError
from studies.commands.output import finish
from studies.commands.program import main
from studies.definition.changes import check_against_stored
from studies.engine.display import Display
from studies.engine.resources import Resources
from studies.engine.scheduler import Scheduler
from studies.engine.session import run
from studies.planning.machine import Speed
from studies.planning.plan import plan
from studies.search import sampling
from studies.search.history import EvaluatedProposal
from studies.search.proposals import read_proposals
from studies.search.search import Search, check_start, parse
from studies.search.stopping import count_since_best, explain_ends, measure_hours
from studies.store.ledger import Ledger
from studies.store.overview import studies_in

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
SHIPPED = len(INITIAL_POINTS)


def row(end, seconds):
    return {"finished": NOON + datetime.timedelta(seconds=end), "seconds": seconds}


def run_all(study, ledger, stuck=None, killed=False, **costs):
    """Run a study as `carry_out` does, each trial for 600 s after the other; return the proposals."""
    finished = [len(ledger.last_attempts())]

    while trial := Scheduler(study, ledger).next_trial():
        if killed:
            assert Scheduler(study, Ledger(ledger.store, ledger.study)).next_trial() == trial
        finished[0] += 1
        values = {} if stuck is None or trial.config.seed or finished[0] <= SHIPPED else {"iou": stuck}
        end(ledger, trial, **row(600 * finished[0], 600.0), **values, **costs)
    return read_proposals(ledger)


def own(proposals):
    return [one for one in proposals if one.seed == 0]


RULES = {
    "hours": ({"hours": 1.0}, {"hours": 1.5}, {}, 6, 9, r"its trials ran for 1 h: search\.stop\.hours is 1,"),
    "GPU hours": ({"gpu_hours": 2}, {"gpu_hours": 3}, {"gpu_seconds": 1200.0}, 6, 9, "its trials took 2 GPU hours: "),
    "no improvement": (
        {"without_improvement": 4},
        {"without_improvement": 6},
        {"stuck": 0.1},
        SHIPPED + 4,
        SHIPPED + 6,
        "the last 4 proposals have not improved iou: ",
    ),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rule", RULES)
def test_a_search_stops_says_so_confirms_and_continues_with_a_larger_limit(rule, tmp_path, capsys):
    less, more, costs, count, then, words = RULES[rule]
    ledger = Ledger(str(tmp_path), "searched")
    study = study_of(stop=less, confirm="1x2", sampler="random")
    ledger.define(study.definition())
    found = run_all(study, ledger, killed=True, **costs)
    assert len(own(found)) == count
    assert len(found) == count + 4  # the baseline and the best are confirmed
    assert Scheduler(study, ledger).done()
    assert Scheduler(study, ledger).problem() is None

    (sentence,) = explain_ends(study, ledger)
    assert re.search(rf"^the search of e2-.* stopped after {count} of 12 proposals, since {words}", sentence)
    status = CliRunner().invoke(main, ["status", "searched", "--store", str(tmp_path)])
    assert sentence in " ".join(status.output.split())
    page = write_report([ledger], tmp_path / "report.html")
    assert sentence[1:].replace("<", "&lt;") in (tmp_path / "report.html").read_text(), page

    finish(study, ledger, finished=True, with_report=False)
    assert capsys.readouterr().err == f"{sentence}\n"

    larger = check_against_stored(study_of(stop=more, confirm="1x2", sampler="random"), ledger.definition(), False)
    assert len(own(run_all(larger, ledger, **costs))) == then
    without = study_of(confirm="1x2", sampler="random")
    assert len(own(run_all(without, ledger, **costs))) == 12
    assert explain_ends(without, ledger) == []
    assert explain_ends(study, ledger) == []  # the budget is used up


@pytest.fixture
def planned(monkeypatch):
    """A function that returns the plan of a study without measuring this machine."""
    monkeypatch.setattr("studies.planning.plan.machine_speed", lambda *_: Speed(1e9, 1e10))
    return lambda study, ledger: plan(study, ledger, Resources())


ENDED = {  # study's settings and the reason
    "exhausted": (
        {"space": {"diffusion.target": {"choices": ["epsilon", "x0", "v"]}}, "sampler": "tpe"},
        "stopped after 3 of 12 proposals, since all 40 that were drawn next had been tried: for more, give a wider",
    ),
    "an exhausted grid": (
        {"space": {"training.batch": {"low": 2, "high": 4}}, "sampler": "grid"},
        "stopped after 4 of 12 proposals, since all 40",
    ),
    "stopped": ({"stop": {"hours": 0.5}}, r"search\.stop\.hours is 0\.5"),
}


@pytest.mark.parametrize("case", ENDED)
def test_a_search_that_has_ended_early_has_nothing_left_and_says_why(case, planned, tmp_path, capsys):
    settings, words = ENDED[case]
    study, ledger = study_of(confirm="1x1", **settings), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    assert planned(study, ledger)["missing"] == 12 + 2
    known = len(run_all(study, ledger))
    assert Scheduler(study, ledger).done()
    (sentence,) = explain_ends(study, ledger)
    assert re.search(words, sentence)
    (one,) = load_searches([ledger])
    assert one.end == sentence
    found = planned(study, ledger)
    assert (found["missing"], found["ends"]) == (0, [sentence])
    (row,) = studies_in(str(tmp_path))
    assert row.trials == known
    line = Display(study, ledger, Scheduler(study, ledger).planned(), quiet=True)._line(last=True)
    assert line == f"searched: {known} of {known} trials done · 0:00 in all"


SAME = {
    "a fixed value": {"training.batch": 4},
    "one choice": {"training.batch": {"choices": [4]}},
    "no effect": {"diffusion.temperature": {"low": 0.3, "high": 1.5}},
    "a condition that never holds": {
        "diffusion.temperature": {"low": 0.3, "high": 1.5, "when": {"diffusion.schedule": "sigmoid"}}
    },
}


@pytest.mark.parametrize("case", SAME)
def test_a_space_in_which_nothing_varies_is_refused_unless_points_do(case):
    with pytest.raises(SpaceError, match=r"^search\.space: all 100 proposals that were drawn are the start itself"):
        check_start(START, parse({"space": SAME[case], "pruning": 0}))
    points = [{"training.learning_rate": 1e-3}]
    check_start(START, parse({"space": SAME[case], "pruning": 0, "points": points, "budget": 2}))


def test_running_trials_end_before_the_confirmations_of_a_search_that_has_stopped(tmp_path):
    study, ledger = study_of(stop={"hours": 0.5}, confirm="1x1"), Ledger(str(tmp_path), "searched")
    scheduler, busy, clock = Scheduler(study, ledger), {}, 0
    while True:
        while len(busy) < 3 and (trial := scheduler.next_trial(set(busy))):
            busy[trial.name] = trial
        if not busy:
            break
        if all(trial.config.data.held_out for trial in busy.values()) and len(busy) < 3:
            assert explain_ends(study, ledger) == []  # it is not at its end
        clock += 600
        end(ledger, busy.pop(next(iter(busy))), **row(clock, 600.0))
    found = read_proposals(ledger)
    assert len(own(found)) == 3 + 2  # two were running when the third one ended
    assert len(found) == 5 + 2
    assert len(explain_ends(study, ledger)) == 1


def test_the_hours_of_trials_side_by_side_count_once_and_those_between_sessions_do_not():
    assert measure_hours([row(3600, 3600), row(3600, 1800), row(5400, 3600)]) == pytest.approx(1.5)
    assert measure_hours([row(3600, 3600), row(36000, 3600)]) == 2
    assert measure_hours([{"seconds": 5.0, "finished": None}, {"seconds": None}, {}]) == 0


def test_an_improvement_of_several_objectives_changes_the_front():
    def tried(number, *values, status="complete", source="tpe", excess=0.0):
        proposal = sampling.Proposal("s", number, 0, str(number), source, {}, START)
        return EvaluatedProposal(proposal, status, values or None, (), {"memory": excess})

    one = [tried(0, -0.5, source="start"), tried(1, -0.4), tried(2, status="pruned"), tried(3, -0.5)]
    assert count_since_best(one) == 3
    assert count_since_best([*one, tried(4, -0.6)]) == 0
    assert count_since_best([*one, tried(4, -0.6, excess=0.1)]) == 4  # over a limit
    assert count_since_best([*one, tried(4, status="failed"), tried(5, status="running")]) == 3
    two = [tried(0, -0.5, 0.2), tried(1, -0.6, 0.3), tried(2, -0.5, 0.2), tried(3, -0.55, 0.4)]
    assert count_since_best(two) == 2
    assert count_since_best([*two, tried(4, -0.4, 0.1)]) == 0
    assert count_since_best([tried(0, source="point 1"), tried(1, status="pruned")]) == 1


# ---- failures


def test_failures_for_one_reason_one_after_another_end_a_search_without_confirmations(tmp_path):
    study, ledger = study_of(stop={"failures": 3}, confirm="1x1"), Ledger(str(tmp_path), "searched")
    for number in range(9):
        trial = Scheduler(study, ledger).next_trial()
        if number in (2, 4, 5, 6):
            end(ledger, trial, "failed", error=f"the loss is nan at step {number}")
        elif trial:
            end(ledger, trial)
    found = read_proposals(ledger)
    assert len(found) == len(own(found)) == 7
    words = "the last 3 trials of .* failed for the same reason, the loss is nan at step 6; .*`diffseg retry searched`"
    assert re.search(words, Scheduler(study, ledger).problem())
    assert explain_ends(study, ledger) == [Scheduler(study, ledger).problem()]
    larger = study_of(stop={"failures": 4}, confirm="1x1")
    assert Scheduler(larger, ledger).problem() is None
    carry_out(larger, ledger)
    assert len(own(read_proposals(ledger))) == 12


def test_failures_for_other_reasons_do_not_end_a_search(tmp_path):
    study, ledger = study_of(stop={"failures": 3}), Ledger(str(tmp_path), "searched")
    errors = iter(["out of memory", "the loss is nan"] * 6)
    end(ledger, Scheduler(study, ledger).next_trial())
    while trial := Scheduler(study, ledger).next_trial():
        end(ledger, trial, "failed", error=next(errors))
    assert len(read_proposals(ledger)) == 12


def test_the_number_of_failures_at_the_start_follows_the_limit(tmp_path):
    for failures, count in ((None, 5), (2, 2), (8, 8)):
        ledger = Ledger(str(tmp_path / str(failures)), "searched")
        carry_out(study_of(stop={"failures": failures} if failures else {}), ledger, status="failed", error="no disk")
        assert len(read_proposals(ledger)) == count


# ---- bad input


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ("stop = 3", [], r"search\.stop: got 3; allowed is a table such as { hours = 8 }"),
        ("stop.hours = 0", [], r"search\.stop\.hours: got 0; input should be greater than 0"),
        ("stop.hours = inf", [], r"search\.stop\.hours: got Infinity; input should be a finite number"),
        ('stop.hours = "8 h"', [], r'search\.stop\.hours: got "8 h"; input should be a valid number'),
        ("stop.gpu_hours = -1", [], r"search\.stop\.gpu_hours: got -1; input should be greater than 0"),
        ("stop.without_improvement = 0", [], r"search\.stop\.without_improvement: got 0; .* greater than 0"),
        ("stop.without_improvement = 1.5", [], r"search\.stop\.without_improvement: got 1\.5; .* integer"),
        ("stop.failures = true", [], r"search\.stop\.failures: got true; .* integer"),
        ("stop.hour = 3", [], r"unknown key 'search\.stop\.hour'.*hours.*allowed are search\.stop\.hours, "),
        ("", ["--stop", "hours"], r"got 'hours', but a setting is written key=value"),
        ("", ["--stop", "hours=x"], r'search\.stop\.hours: got "x"'),
        ("", ["--stop", "days=1"], r"unknown key 'search\.stop\.days'"),
    ],
)
def test_bad_rules_are_refused_in_one_sentence(lines, options, words, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.format(search=f'space = "schedule"\n{lines}'))
    result = CliRunner().invoke(main, ["plan", str(path), "--store", str(tmp_path / "store"), *options])
    assert result.exit_code == 2, result.output
    assert re.search(words, result.output), result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.slow
def test_gpu_hours_are_refused_where_trials_get_no_gpu(planned, tmp_path):
    start = Config().with_leaves(TINY | {"data.held_out": 0.2}).resolved()
    study, ledger = study_of(start=start, stop={"gpu_hours": 1}), Ledger(str(tmp_path), "searched")
    with pytest.raises(UserError, match=r"search\.stop\.gpu_hours limits the hours of GPUs, but trials get none here"):
        run(study, ledger, Resources(gpus=0), quiet=True)
    assert read_proposals(ledger) == []
    assert "search.stop.gpu_hours limits" in next(iter(planned(study, ledger)["warnings"]))


def test_rules_of_the_command_line_are_set_over_those_of_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.format(search='space = "schedule"\nstop = { hours = 3, failures = 2 }'))
    from studies.commands.requests import StudyRequest, requested_study

    request = StudyRequest(str(path), str(tmp_path / "store"), search={"stop": ("hours=5", "gpu_hours=0.5")})
    study, _ = requested_study(request, extend=False)
    assert study.search.stop.model_dump() == {
        "hours": 5.0,
        "gpu_hours": 0.5,
        "without_improvement": None,
        "failures": 2,
    }
    assert json.loads(json.dumps(study.definition()))["search"]["stop"]["hours"] == 5


# ---- what stopping saves


def reach_best(seed, budget):
    """Return the proposals of a search for the planted optimum, and the best IoU after each."""
    start = START.model_copy(update={"seed": seed})
    search = Search(space="schedule", budget=budget)
    sampler, tried = sampling.Sampler(search, "s", start), []
    while len(tried) < budget:
        proposal = sampler.propose(tried)
        tried.append(EvaluatedProposal(proposal, "complete", losses(planted(proposal.config), ("iou",))))
    return tried, np.maximum.accumulate([-one.losses[0] for one in tried])


@pytest.mark.slow
def test_a_search_without_improvement_saves_proposals_and_keeps_most_of_the_best():
    """TPE, 64 proposals, 20 seeds; the kept share is that of the best IoU after 64, beside it that of a fixed budget.

    without_improvement  proposals saved  kept   worst  fixed budget of the same mean
    10                   70 %             0.924  0.874  0.943
    16                   35 %             0.974  0.874  0.987
    20                   22 %             0.982  0.877  0.993

    A budget that is known beforehand is better spent than by this rule. The first ten proposals of TPE are random, so that a
    limit of about ten ends many searches before it has begun to learn.
    """
    runs = [reach_best(seed, 64) for seed in range(20)]
    found = {}
    for limit in (10, 16, 20):
        used = [next((n for n in range(1, 65) if count_since_best(tried[:n]) >= limit), 64) for tried, _ in runs]
        kept = [best[count - 1] / best[-1] for count, (_, best) in zip(used, runs, strict=True)]
        fixed = np.mean([best[round(np.mean(used)) - 1] / best[-1] for _, best in runs])
        found[limit] = saved, share = 1 - np.mean(used) / 64, np.mean(kept)
        print(f"{limit}: {saved:.2f} saved, {share:.3f} kept, worst {min(kept):.3f}; fixed budget {fixed:.3f}")
    assert found[16][0] >= 0.3
    assert found[16][1] >= 0.97
    assert found[20][1] >= 0.98
