"""A search through Ray, killed twice on the way: it ends as one that was not, and costs little more."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_session import kill_tree

from studies.ledger import Ledger
from studies.progress import read
from studies.search import proposals

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
    data.size = 16
    data.train_images = 40
    data.test_images = 4
    diffusion.target = "x0"
    training.steps = 200
    training.batch = 4
    training.learning_rate = 1e-3
    training.evaluations = [0.25]
    training.log_every = 5
    training.checkpoint_every = {EVERY}
    inference.steps = 2
    inference.ensemble = 2
    inference.timesteps = 4
    inference.timestep_images = 4
    [network.ensemdiff]
    network.width = 32
    network.multipliers = [1, 1]
    network.blocks = 1
    network.attention = [2]
    [data.synthetic-large]
    data.layout = "synthetic"
"""
RESULTS = ("status", "steps", "iou", "ece", "brier")


def start(folder):
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(STUDY)
    command = [sys.executable, "-m", "studies.cli", "run", "small.toml", "--store", "store", "--no-report"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **pipe)


def wait_until_amid(ledger, number, step, timeout=300):
    """Until a search trains its proposal of that number beyond a step; return its folder and the step."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for proposal in proposals(ledger):
            folder = Path(ledger.root) / "work" / str(proposal.trial)
            steps = [int(path.name[5:13]) for path in folder.glob("step-*.pt")]
            if proposal.number == number and proposal.seed == 0 and max(steps, default=0) >= step:
                return folder, max(steps)
        time.sleep(0.05)
    raise AssertionError(f"proposal {number} was not trained in time")


def whole(ledger):
    rows = {row["trial"]: tuple(row[key] for key in RESULTS) for row in ledger.last([*RESULTS])}
    return [(p.number, p.seed, p.source, p.settings, p.reason, rows.get(p.trial)) for p in proposals(ledger)]


@pytest.mark.slow
def test_a_search_killed_twice_ends_as_one_that_was_not(tmp_path):
    first = start(tmp_path / "whole")
    assert first.wait(900) == 0, first.stdout.read()
    ledger, lost = Ledger(str(tmp_path / "killed/store"), "small"), 0
    for number in (5, 17):
        process = start(tmp_path / "killed")
        folder, saved = wait_until_amid(ledger, number, 30)
        kill_tree(process)
        lost += max(0, read(folder).step - saved) + EVERY
    last = start(tmp_path / "killed")
    assert last.wait(900) == 0, last.stdout.read()
    found = whole(ledger)
    assert str(found) == str(whole(Ledger(str(tmp_path / "whole/store"), "small")))  # as text, since some are NaN
    assert len([one for one in found if one[1] == 0]) == BUDGET
    assert "pruned" in {one[-1][0] for one in found}
    trained = sum(one[-1][1] for one in found)
    print(f"{trained:.0f} steps, at most {lost} of them twice")
    assert lost <= 0.1 * trained
