"""Warm start: what a search takes from other studies, that it needs them only once, and the sentence for each that cannot be."""

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from test_own_spaces import HEAD
from test_search import START, end, planted, study_of

from analysis.searches import best_proposals, load_searches
from diffseg.errors import UserError
from diffseg.evaluation.pareto import losses
from search_spaces import INITIAL_POINTS
from studies.commands.program import main
from studies.definition.changes import check_against_stored
from studies.definition.study import stored_study
from studies.engine.scheduler import Scheduler
from studies.search import sampling
from studies.search.history import EvaluatedProposal
from studies.search.priors import Prior
from studies.search.proposals import read_proposals
from studies.search.search import Search
from studies.search.warm_start import BEST, take_priors
from studies.store.ledger import Ledger

SHIPPED = len(INITIAL_POINTS)
OTHER = START.with_leaves({"seed": 7, "data.name": "renamed"}).resolved()


def run_all(study, ledger, data="d1", **row):
    ledger.define(study.definition())
    while trial := Scheduler(study, ledger).next_trial():
        end(ledger, trial, data_digest=data, **row)
    return read_proposals(ledger)


def warm(tmp_path, report=lambda sentence: None, start=START, sources=("other",), **settings):
    """Return a study that starts from `sources`, with what it took, and its ledger."""
    study, ledger = study_of(start=start, warm_start=[*sources], **settings), Ledger(str(tmp_path), "searched")
    definition = ledger.definition()
    return take_priors(check_against_stored(study, definition, False), ledger, report), ledger


@pytest.fixture
def other(tmp_path):
    """The ledger of a study in the same store: 12 random proposals of the space `schedule`, of another seed."""
    ledger = Ledger(str(tmp_path), "other")
    run_all(study_of(start=OTHER, sampler="random"), ledger)
    return ledger


def the_best(ledger, count=BEST):
    found = [p for p in read_proposals(ledger) if p.number not in (1, 2)]  # these have another target
    found.sort(key=lambda one: -planted(one.config)["iou"])
    return [{k: v for k, v in one.settings.items() if k in SPACED} for one in found[:count]]


SPACED = ("diffusion.schedule", "diffusion.input_scale", "diffusion.spread", "diffusion.ends", "diffusion.log_snr_min")


def test_the_best_of_another_study_are_tried_first_and_count_as_proposals(other, tmp_path):
    said = []
    study, ledger = warm(tmp_path, said.append, budget=9)
    found = run_all(study, ledger, data="d2")
    assert [one.source for one in found[: SHIPPED + BEST]] == [*INITIAL_POINTS, *["from other"] * BEST]
    for one, best in zip(found[SHIPPED:], the_best(other), strict=False):
        assert one.config.with_leaves(best).resolved() == one.config
        assert one.config.seed == START.seed
    assert len(found) == 9
    (sentence,) = said
    assert sentence.endswith(
        "starts from study other: of its 12 complete proposals 3 are tried first, "
        "10 are known to the sampler if the data are the same, and 2 are left out"
    )


def test_the_proposals_of_another_study_on_the_same_data_are_known_to_the_sampler_but_no_results(other, tmp_path):
    for data, count in (("d1", 10), ("d2", 0)):
        study, ledger = warm(tmp_path / data, budget=8, sources=[f"{tmp_path}/other"])
        run_all(study, ledger, data=data)
        (start,) = study.starts
        scheduler = Scheduler(study, ledger)
        known = scheduler._sampler(start).convert_priors(data)
        assert len(known) == count
        assert all(one.user_attrs["from"] == "other" for one in known)
        assert all(
            one.values == [-planted(read_proposals(other)[one.user_attrs["number"]].config)["iou"]] for one in known
        )
        assert len(best_proposals(ledger, [start.name], None, pareto=False)) == 8
        (search,) = load_searches([ledger])
        words = "the sampler also knew 10 proposals of other, measured on the same data"
        assert search.taken == (words if count else "")


def test_what_is_known_changes_what_is_proposed(other, tmp_path):
    def draws(data):
        study, ledger = warm(tmp_path / data, budget=8, sources=[f"{tmp_path}/other"])
        return [one.settings for one in run_all(study, ledger, data=data)]

    same, different = draws("d1"), draws("d2")
    assert same[: SHIPPED + BEST] == different[: SHIPPED + BEST]
    assert same[SHIPPED + BEST :] != different[SHIPPED + BEST :]


@pytest.mark.parametrize(
    "settings",
    [{"data.held_out": 0.3}, {"training.steps": 1000}, {"training.batch": 3}],
    ids=lambda one: next(iter(one)),
)
def test_values_of_other_splits_lengths_and_settings_are_not_known(settings, other, tmp_path):
    study, ledger = warm(tmp_path, start=START.with_leaves(settings).resolved(), budget=7)
    (priors,) = study.priors.values()
    assert [one.first for one in priors] == [True] * BEST
    assert [one.data for one in priors] == [None] * BEST
    found = run_all(study, ledger)
    assert [one.source for one in found].count("from other") == BEST


def test_a_search_resumes_without_the_other_study(other, tmp_path):
    whole, ledger = warm(tmp_path / "whole", sources=[f"{tmp_path}/other"])
    proposals = [(one.source, one.settings) for one in run_all(whole, ledger)]

    study, ledger = warm(tmp_path / "killed", sources=[f"{tmp_path}/other"])
    ledger.define(study.definition())
    for _ in range(5):
        end(ledger, Scheduler(study, ledger).next_trial(), data_digest="d1")
    shutil.rmtree(tmp_path / "other")
    again, ledger = warm(tmp_path / "killed", sources=[f"{tmp_path}/other"])  # by the same command
    assert again.priors == study.priors
    assert stored_study("searched", ledger.definition()).priors == study.priors  # by its name
    assert [(one.source, one.settings) for one in run_all(again, ledger)] == proposals
    with pytest.raises(UserError, match=r"exists with another search \(search.warm_start: .*/other → none\)"):
        check_against_stored(study_of(), ledger.definition(), False)


def test_proposals_over_an_own_limit_are_not_tried_first(other, tmp_path):
    best = max(planted(one.config)["iou"] for one in read_proposals(other) if one.number not in (1, 2))
    study, _ = warm(tmp_path, constraints={"ece": 0.15})
    (priors,) = study.priors.values()
    assert any(one.excess["ece"] > 0 and not one.first for one in priors)
    assert all(one.excess["ece"] <= 0 for one in priors if one.first)
    assert best >= max(-one.losses[0] for one in priors if one.first)


def test_lists_and_fixed_settings_of_a_space_of_ones_own_are_taken(tmp_path):
    theirs = {
        "network.multipliers": {"choices": [[1, 2], [1, 2, 4]]},
        "network.width": {"low": 32, "high": 96, "step": 32},
    }
    ours = theirs | {"training.batch": 4, "network.width": {"low": 32, "high": 64, "step": 32}}
    run_all(study_of(start=OTHER, space=theirs, budget=6, sampler="random"), Ledger(str(tmp_path), "other"))
    study, ledger = warm(tmp_path, space=ours, budget=5)
    first = [one for one in run_all(study, ledger) if one.source == "from other"]
    assert first
    assert all(one.settings["training.batch"] == 4 and one.settings["network.width"] < 96 for one in first)
    assert stored_study("searched", ledger.definition()).priors == study.priors


# ---- what is refused


def test_other_studies_that_cannot_be_used_are_refused_in_one_sentence(other, tmp_path):
    store = tmp_path
    run_all(study_of(start=OTHER, budget=4), Ledger(str(store), "unmeasured"), iou=None)
    Ledger(str(store), "fresh").define(study_of().definition())
    run_all(
        study_of(start=OTHER, space={"diffusion.target": {"choices": ["x0", "v"]}}, budget=3),
        Ledger(str(store), "targets"),
    )
    cases = {
        '["missing"]': r"search\.warm_start: there is no study 'missing' in the store .*--store",
        '["othr"]': r"search\.warm_start: there is no study 'othr' in the store .*did you mean other",
        '["/nowhere/other"]': r"search\.warm_start: there is no study 'other' in the store /nowhere",
        '["unmeasured"]': r"search\.warm_start: study unmeasured cannot be used, .* 4 complete proposals has measured iou",
        '["fresh"]': r"search\.warm_start: study fresh cannot be used, since no proposal of it is complete",
        '["plain"]': r"search\.warm_start: study plain has no search",
        '["targets"]': r"search\.warm_start: none of the 3 complete proposals of study targets fits search\.space",
        '["mine"]': r"search\.warm_start: mine is this study itself",
        '["other", "other"]': r"search\.warm_start: got other, other, but each must be named once",
        '"other"': r'search\.warm_start: got "other"; input should be a valid (array|tuple)',
        "[3]": r"search\.warm_start\.0: got 3; input should be a valid string",
    }
    for name in ("mine", "plain"):
        Ledger(str(store), name).define({"study": name, "trials": {}})
    for sources, words in cases.items():
        path = tmp_path / "mine.toml"
        path.write_text(
            HEAD.format(
                search=f"warm_start = {sources}\n[search.space]\ndiffusion.input_scale = {{ low = 2, high = 3 }}"
            )
        )
        result = CliRunner().invoke(main, ["plan", str(path), "--store", str(store)])
        assert result.exit_code == 2, (sources, result.output)
        assert re.search(words, result.output), (sources, result.output)
        assert len(result.output.strip().splitlines()) == 1


def test_the_option_names_other_studies(other, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.format(search='space = "schedule"'))
    options = ["--store", str(tmp_path), "--warm-start", "other", "--json"]
    result = CliRunner().invoke(main, ["plan", str(path), *options])
    assert result.exit_code == 0, result.output
    assert "starts from study other: of its 12 complete proposals 3 are tried first" in result.stderr
    assert json.loads(result.stdout)["missing"] == 9
    plain = tmp_path / "plain.toml"
    plain.write_text(HEAD.partition("[search]")[0].replace("[]", '["e1"]', 1))
    result = CliRunner().invoke(main, ["plan", str(plain), *options])
    assert "has no search, so it takes no --warm-start" in result.output


# ---- what a warm start saves


def near(config):
    """Compute an IoU that is best, 0.8, at b = 0.2 and a spread of 1.4: another data set, whose optimum is near."""
    diffusion = config.diffusion
    off = abs(np.log(diffusion.input_scale / 0.2)) / 5 + 0.3 * (diffusion.schedule != "laplace")
    off += abs(np.log((diffusion.spread or 1.0) / 1.4)) / 5 + 0.1 * (diffusion.ends != "limited")
    return {"iou": 0.8 - 0.4 * off}


def far(config):
    """Compute an IoU that is best, 0.8, for the sigmoid schedule at b = 1: a data set that wants another design."""
    diffusion = config.diffusion
    return {"iou": 0.8 - 0.4 * (abs(np.log(diffusion.input_scale)) / 5 + 0.3 * (diffusion.schedule != "sigmoid"))}


def search_for(objective, seed, budget, priors=()):
    """Return the evaluated proposals of a search that starts from priors."""
    start = START.model_copy(update={"seed": seed})
    sampler, tried = sampling.Sampler(Search(space="schedule", budget=budget), "s", start, priors), []
    while len(tried) < budget:
        proposal = sampler.propose(tried)
        tried.append(EvaluatedProposal(proposal, "complete", losses(objective(proposal.config), ("iou",)), data="d"))
    return tried


def as_priors(tried, same_data):
    """Return what a search takes from another one."""
    sampler = sampling.Sampler(Search(space="schedule"), "s", START)
    found = []
    for one in sorted(tried, key=lambda one: one.losses):
        if settings := sampler.adopt(one.proposal.config, one.proposal.settings):
            first, data = len(found) < BEST, "d" if same_data else None
            number = one.proposal.number
            prior = {"study": "o", "number": number, "settings": settings, "first": first, "data": data}
            found.append(Prior(**prior, losses=one.losses, excess={}))
    return tuple(one for one in found if one.first or one.data)


@pytest.mark.slow
def test_a_warm_start_saves_proposals_where_the_other_data_are_similar_and_costs_few_where_not():
    """TPE over 20 seeds, each warm start from a search of 32 proposals; the mean of the best IoU after n own proposals.

    n                                   8      16     32
    no warm start                       0.789  0.809  0.864
    from the same data, another seed    0.872  0.875  0.883
    from data whose optimum is near     0.825  0.842  0.864
    from data with another optimum      0.785  0.804  0.854
    """
    budget, seeds = 32, range(20)
    cold = [search_for(planted, seed, budget) for seed in seeds]
    runs = {"cold": cold}
    for name, objective in (("same", planted), ("near", near), ("far", far)):
        others = [search_for(objective, 100 + seed, budget) for seed in seeds]
        priors = [as_priors(other, name == "same") for other in others]
        runs[name] = [search_for(planted, seed, budget, one) for seed, one in zip(seeds, priors, strict=True)]
    found = {}
    for name, some in runs.items():
        best = np.array([np.maximum.accumulate([-one.losses[0] for one in tried]) for tried in some]).mean(0)
        found[name] = best[[7, 15, 31]]
        print(name, *(f"{value:.3f}" for value in found[name]))
    assert found["same"][0] >= 0.99 * found["cold"][2]  # after a quarter of the proposals
    assert found["near"][1] >= 0.97 * found["cold"][2]  # after half of them
    assert found["near"][0] > found["cold"][1]
    assert found["far"][2] >= 0.98 * found["cold"][2]
