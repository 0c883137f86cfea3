"""A search through Ray that is killed twice: it ends as one that is not killed, and costs little more."""

import time
from pathlib import Path

import pytest
from test_session import SMALL, kill_tree, start

from studies.search.proposals import read_proposals
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.progress import read_progress

BUDGET, EVERY = 24, 5  # proposals; steps between checkpoints
STUDY = f"""
    experiments = []
    [search]
    space = "weighting"
    budget = {BUDGET}
    pruning = 2
    confirm = "1x1"
    concurrency = 1
    [search.start]
    data.held_out = 0.2
    [all]
    training.steps = 200
    training.learning_rate = 1e-3
    training.evaluations = [0.25]
    training.log_every = 5
    training.checkpoint_every = {EVERY}
{SMALL}"""
RESULTS = ("status", "steps", "iou", "ece", "brier")


def wait_for_proposal(ledger, number, step, timeout=900):
    """Wait until a search trains the proposal of a number beyond a step; return its folder and the step."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for proposal in read_proposals(ledger):
            folder = Path(ledger.root) / "work" / str(proposal.trial)
            steps = [int(path.name[5:13]) for path in folder.glob("step-*.pt")]
            if proposal.number == number and proposal.seed == 0 and max(steps, default=0) >= step:
                return folder, max(steps)
        time.sleep(0.05)
    raise AssertionError(f"proposal {number} was not trained in time")


def read_whole(ledger):
    rows = {row["trial"]: tuple(row[key] for key in RESULTS) for row in ledger.last_rows([*RESULTS])}
    return [(p.number, p.seed, p.source, p.settings, p.reason, rows.get(p.trial)) for p in read_proposals(ledger)]


@pytest.mark.slow
def test_a_search_that_is_killed_twice_ends_as_one_that_is_not(tmp_path):
    first = start(tmp_path / "whole", study=STUDY)
    assert first.wait(900) == 0, first.stdout.read()
    ledger, lost = Ledger(str(tmp_path / "killed/store"), "small"), 0
    for number in (5, 17):
        process = start(tmp_path / "killed", study=STUDY)
        folder, saved = wait_for_proposal(ledger, number, 30)
        kill_tree(process)
        lost += max(0, read_progress(Folder.open(str(folder))).step - saved) + EVERY
    last = start(tmp_path / "killed", study=STUDY)
    assert last.wait(900) == 0, last.stdout.read()
    found = read_whole(ledger)
    assert str(found) == str(read_whole(Ledger(str(tmp_path / "whole/store"), "small")))  # as text, since some are NaN
    assert len([one for one in found if one[1] == 0]) == BUDGET
    assert "pruned" in {one[-1][0] for one in found}
    trained = sum(one[-1][1] for one in found)
    print(f"{trained:.0f} steps, at most {lost} of them twice")
    assert lost <= 0.1 * trained
