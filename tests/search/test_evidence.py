"""Evidence in paired values, and what pruning and choosing by it is worth in simulated searches."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from studies.engine.scheduler import Scheduler
from studies.search.evidence import (
    Estimate,
    Scores,
    collect_scores,
    compute_leads,
    estimate_losses,
    find_evidence,
    is_surely_better,
)
from studies.search.history import History
from studies.search.proposals import read_proposals
from studies.search.search import Rungs
from studies.store.ledger import Ledger


def scores_of(values):
    """Return the scores of IoUs of images."""
    return Scores((-float(np.mean(values)),), ({str(place): -float(value) for place, value in enumerate(values)},))


def test_a_lead_is_paired_and_its_probability_is_that_of_students_t():
    noise = np.random.default_rng(0)
    one = noise.normal(0.7, 0.2, 12)
    other = one - 0.02 + noise.normal(0, 0.03, 12)
    (lead,) = compute_leads(scores_of(one), scores_of(other))
    assert lead.mean == pytest.approx((one - other).mean())
    assert lead.error == pytest.approx((one - other).std(ddof=1) / math.sqrt(12))
    assert lead.probability == pytest.approx(1 - ttest_rel(one, other, alternative="greater").pvalue)
    (back,) = compute_leads(scores_of(other), scores_of(one))
    assert back.probability == pytest.approx(1 - lead.probability)


def test_few_or_no_shared_images_are_no_evidence_and_equal_differences_are():
    values = np.linspace(0.5, 0.9, 8)
    (few,) = compute_leads(scores_of(values[:3]), scores_of(values - 0.3))
    assert (few.units, few.probability) == (3, 0.5)
    apart = Scores((-0.1,), ({"another image": -0.1},))
    assert compute_leads(scores_of(values), apart)[0].probability == 0.5
    assert compute_leads(scores_of(values), scores_of(values))[0].probability == 0.5
    exact = Scores((-0.75,), ({str(place): -0.75 for place in range(8)},))
    assert compute_leads(exact, Scores((-0.5,), ({str(place): -0.5 for place in range(8)},)))[0].probability == 1.0
    means = Scores((-0.7,), ({},)), Scores((-0.6,), ({},))
    assert compute_leads(*means)[0].probability == 1.0
    assert compute_leads(*means[::-1])[0].probability == 0.0


def test_images_of_a_group_count_once_and_nan_is_left_out():
    rows = [
        {"metric": metric, "image": f"i{place}", "group": f"p{place // 2}", "value": value}
        for metric in ("iou", "hd95", "ece", "dice")
        for place, value in enumerate((0.5, 0.7, math.nan, 0.9))
    ]
    found = collect_scores((-0.7, 0.7, 0.1), rows, ("iou", "hd95", "ece"))
    assert found.units == (
        {"p0": pytest.approx(-0.6), "p1": -0.9},
        {"p0": pytest.approx(0.6), "p1": 0.9},
        {},  # pooled
    )
    assert found.grouped


def test_a_noisy_lead_is_shrunk_more_than_a_steady_one():
    noise, difficulty = np.random.default_rng(1), np.linspace(0.3, 0.9, 16)
    steps = np.tile([1, -1], 8)
    quality = [0.05, 0.048, *noise.normal(0, 0.02, 8)]
    spread = [0.25, 0.02, *[0.02] * 8]
    scores = [scores_of(difficulty + q + s * steps) for q, s in zip(quality, spread, strict=True)]
    lucky, steady, *_ = estimate_losses(scores, 0)
    assert scores[0].means < scores[1].means  # by the mean, the noisy one is the best
    assert steady.loss < lucky.loss
    assert steady.deviation < lucky.deviation


def test_estimates_keep_the_order_of_the_means_where_all_are_equally_noisy_and_without_images():
    steps = np.tile([1, -1], 8)
    scores = [scores_of(0.5 + 0.001 * place + 0.3 * steps * (-1) ** place) for place in range(6)]
    found = [one.loss for one in estimate_losses(scores, 0)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] < 0.005  # shrunk
    means = [Scores((loss,), ({},)) for loss in (0.3, 0.1, 0.2)]
    assert estimate_losses(means, 0) == [Estimate(loss, math.inf) for loss in (0.3, 0.1, 0.2)]
    assert estimate_losses([], 0) == []
    same = estimate_losses([scores_of([0.5] * 8)] * 4, 0)
    assert [one.loss for one in same] == [-0.5] * 4


def test_surely_better_needs_every_objective():
    good, bad, unknown = Estimate(0.1, 0.01), Estimate(0.2, 0.01), Estimate(0.0, math.inf)
    assert is_surely_better([good], [bad], 0.9)
    assert not is_surely_better([bad], [good], 0.9)
    assert not is_surely_better([good], [good], 0.9)
    assert not is_surely_better([good, unknown], [bad, bad], 0.9)
    assert is_surely_better([Estimate(0.1, 0.0)], [Estimate(0.2, 0.0)], 0.9)


def end(ledger, trial, values):
    """Complete a trial with these IoUs of images."""
    rows = [{"image": f"i{k}", "class": "all", "metric": "iou", "value": float(v)} for k, v in enumerate(values)]
    row = {"status": "complete", "iou": float(np.mean(values)), "ece": 0.1}
    attempt = ledger.last_attempts().get(trial.name, 0) + 1
    ledger.write(trial.name, attempt, {"trials": [row], "images": rows})


@pytest.mark.parametrize(("scatter", "confirmed"), [(0.001, 1), (0.5, 4)])
def test_what_the_first_surely_beats_is_not_confirmed(tmp_path, scatter, confirmed):
    from test_search import study_of

    study, ledger = study_of(budget=9, confirm="4x1", sampler="random"), Ledger(str(tmp_path), "searched")
    noise, difficulty, scheduler = np.random.default_rng(0), np.linspace(0.3, 0.9, 12), Scheduler(study, ledger)
    while trial := scheduler.next_trial():
        number = len(read_proposals(ledger))
        end(ledger, trial, difficulty - 0.02 * number + scatter * noise.normal(0, 1, 12))
    again = [one for one in read_proposals(ledger) if one.seed]
    assert len(again) == 1 + confirmed  # with the baseline
    (start,) = study.starts
    history = History(ledger, study.search, start.name, start.config)
    rows = {row["trial"]: row for row in ledger.last_rows()}
    first = [one.proposal.number for one in history.rank(history.evaluate(history.proposals(), rows))]
    assert {one.number for one in again} == {0, *[number for number in first if number][:confirmed]}
    assert Scheduler(study, ledger).done()


# ---- simulated searches

SHARES, PROPOSALS, RUNG_IMAGES, CONFIRMED, SEEDS, TESTED = (0.12, 0.34), 16, 32, 3, 3, 60
SPREAD, DIFFICULTY, OWN, CHANGE = 0.03, 0.15, 0.06, 0.02


class SimulatedSearch:
    """Sixteen proposals of known quality, with IoUs of images at two rungs and at the end, and of confirmations on the test.

    An image's IoU is the quality (SD 3 points), the image's difficulty (15), which all share, and what the configuration makes
    of that image (median SD 6 / e^(1/8), of which each configuration has its own; correlated by 0.7 between a rung and the end).
    At rungs, the quality itself is off by up to 2 points, since curves cross. A confirmation has three seeds of SD 1 point and 60
    test images.
    """

    def __init__(self, seed, images, spread=SPREAD):
        noise = np.random.default_rng(seed)
        self.quality = noise.normal(0, spread, PROPOSALS)
        difficulty = noise.normal(0, DIFFICULTY, images)
        own = OWN * np.exp(noise.normal(0, 0.5, PROPOSALS) - 0.125)
        final = noise.normal(0, 1, (PROPOSALS, images))
        base = self.quality[:, None] + difficulty
        self.final = base + own[:, None] * final
        self.rungs = []
        for share in SHARES:
            mixed = 0.7 * final + math.sqrt(1 - 0.7**2) * noise.normal(0, 1, final.shape)
            change = noise.normal(0, CHANGE * (1 - share), (PROPOSALS, 1))
            self.rungs.append((base + change - 0.3 * (1 - share) + own[:, None] * mixed)[:, :RUNG_IMAGES])
        deviation = math.sqrt(0.01**2 / SEEDS + OWN**2 / TESTED)
        self.tested = self.quality + noise.normal(0, deviation, PROPOSALS)

    def prune(self, reduction, certainty):
        """Return the proposals that continue to the end, and the share of the steps that all took. certainty None: by means."""
        rule, seen, alive, steps = Rungs("s", ("iou",), reduction, certainty or 0.9), [{} for _ in SHARES], [], 0.0
        for number in range(PROPOSALS):
            for share, reached, values in zip(SHARES, seen, self.rungs, strict=True):
                scores = scores_of(values[number])
                reached[str(number)] = scores if certainty else Scores(scores.means, ({},))
                if number and find_evidence(rule, str(number), reached):
                    steps += share
                    break
            else:
                alive.append(number)
                steps += 1
        return alive, steps / PROPOSALS

    def choose(self, alive, shrunk, confirm):
        """Return the winner among the proposals, and how many were confirmed."""
        scores = [scores_of(self.final[number]) for number in alive]
        found = estimate_losses(scores, 0) if shrunk else [Estimate(one.means[0], math.inf) for one in scores]
        order = sorted(range(len(alive)), key=lambda place: found[place].loss)
        if not confirm:
            return alive[order[0]], 0
        first = order[:CONFIRMED]
        again = [place for place in first if not is_surely_better([found[order[0]]], [found[place]], 0.9)]
        return max((alive[place] for place in again), key=lambda number: self.tested[number]), len(again)


RULES = {  # reduction and certainty of pruning, and whether estimates are shrunk
    "no pruning": (PROPOSALS * 10, None, False),
    "by means, 3": (3, None, False),
    "by means, 2": (2, None, False),
    "by evidence, 3": (3, 0.9, True),
    "by evidence, 3, certainty 0.8": (3, 0.8, True),
    "by evidence, 4": (4, 0.9, True),
}


def measure(images, spread, rule, repetitions=200):
    """Return the columns of the table below, from `best` on."""
    reduction, certainty, shrunk = RULES[rule]
    rows = []
    for seed in range(repetitions):
        search = SimulatedSearch(seed, images, spread)
        alive, steps = search.prune(reduction, certainty) if rule != "no pruning" else ([*range(PROPOSALS)], 1.0)
        alone, _ = search.choose(alive, shrunk, False)
        confirmed, count = search.choose(alive, shrunk, True)
        best = search.quality.max()
        regrets = 100 * (best - search.quality[[alone, confirmed]])
        rows.append((search.quality.argmax() in alive, steps, *regrets, count))
    return np.mean(rows, 0)


@pytest.mark.slow
@pytest.mark.parametrize("images", [17, 100])
def test_pruning_by_evidence_keeps_the_best_where_images_are_few(images):
    """Compare the old rule, by means, with that by evidence in 200 simulated searches.

    best: share of the searches in which the truly best proposal is not pruned. steps: of training, as a share of those without
    pruning. regret: points of IoU by which the winner on held-out images is worse than the best; confirmed: the same of the winner
    on test images among the trials that are confirmed. spread: SD of the proposals' quality, points.

    images  spread  rule                            best  steps  regret  confirmed    trials
        17       3  no pruning                      100%   100%    0.80       0.35       3.0
        17       3  by means, 3                      80%    42%    0.83       0.54       3.0
        17       3  by means, 2                      92%    54%    0.77       0.40       3.0
        17       3  by evidence, 3                   98%    62%    0.73       0.37       2.5
        17       3  by evidence, 3, certainty 0.8    93%    54%    0.71       0.40       2.4
        17       3  by evidence, 4                   95%    55%    0.75       0.35       2.5
        17       1  no pruning                      100%   100%    0.95       0.50       3.0
        17       1  by means, 3                      50%    41%    0.99       0.73       3.0
        17       1  by means, 2                      69%    52%    0.94       0.53       3.0
        17       1  by evidence, 3                   86%    71%    0.91       0.54       3.0
        17       1  by evidence, 3, certainty 0.8    79%    59%    0.91       0.52       2.9
        17       1  by evidence, 4                   79%    63%    0.93       0.57       2.9
       100       3  no pruning                      100%   100%    0.18       0.21       3.0
       100       3  by means, 3                      85%    42%    0.27       0.35       2.9
       100       3  by means, 2                      94%    53%    0.20       0.27       3.0
       100       3  by evidence, 3                   96%    57%    0.18       0.14       1.7
       100       3  by evidence, 3, certainty 0.8    95%    52%    0.18       0.14       1.6
       100       3  by evidence, 4                   94%    51%    0.18       0.15       1.7
       100       1  no pruning                      100%   100%    0.31       0.33       3.0
       100       1  by means, 3                      55%    40%    0.50       0.50       2.9
       100       1  by means, 2                      71%    52%    0.38       0.38       3.0
       100       1  by evidence, 3                   86%    64%    0.30       0.28       2.5
       100       1  by evidence, 3, certainty 0.8    76%    55%    0.35       0.33       2.4
       100       1  by evidence, 4                   81%    57%    0.34       0.31       2.4

    At equal steps the two rules are close where proposals differ by much; the evidence adapts to what can be decided.
    """
    found = {}
    for spread in (0.03, 0.01):
        for rule in RULES:
            found[spread, rule] = measure(images, spread, rule)
            kept, steps, alone, confirmed, count = found[spread, rule]
            print(
                f"{images:4} {100 * spread:3.0f}  {rule:30} {kept:5.0%} {steps:6.0%} {alone:6.2f} {confirmed:6.2f} {count:4.1f}"
            )
    for spread in (0.03, 0.01):
        old, new = found[spread, "by means, 3"], found[spread, "by evidence, 3"]
        assert new[0] > old[0] + 0.1  # keeps the best
        assert new[3] < old[3]  # a better winner after confirmation
        assert new[1] < 0.8  # and still saves steps
