"""What the engine takes: the time between two trials of a study, and reading a ledger."""

import itertools
import tempfile

import torch

from analysis import tables
from diffseg.bench.harness import Contest, told
from diffseg.bench.harness import measure as in_turns
from diffseg.config import Config
from studies.definition.study import Study, stored_study
from studies.definition.trial import Trial, trial_name
from studies.engine.resources import Resources
from studies.engine.session import run
from studies.store.compaction import compact
from studies.store.ledger import Ledger
from studies.store.state import trial_states
from studies.store.tables import SCHEMAS

TRIALS = 8  # that are run, one after the other
READ = 300  # trials of a ledger that is read
CPU = torch.device("cpu")
TINY = {
    "experiment": "e1",
    "data.size": 16,
    "data.layout": "synthetic",
    "data.train_images": 4,
    "data.test_images": 4,
    "network.width": 32,
    "network.multipliers": [1, 1],
    "network.attention": [],
    "training.steps": 2,
    "training.batch": 2,
}


def measure(rounds: int) -> list[dict]:
    """Rows as of diffseg.bench.harness.told."""
    with tempfile.TemporaryDirectory() as place:
        ledger = _ran(place)
        return _pauses(ledger) + in_turns(_reading(ledger, place), rounds, CPU)


def _ran(place: str) -> Ledger:
    configs = [Config().with_leaves(TINY | {"seed": seed}).resolved() for seed in range(TRIALS)]
    study = Study("bench", tuple(Trial(trial_name(config), config) for config in configs), {})
    ledger = Ledger(place, study.name)
    run(study, ledger, Resources(gpus=0, concurrency=1), quiet=True)
    return ledger


def _pauses(ledger: Ledger) -> list[dict]:
    """From the end of a trial to the start of the next one in its place."""
    rows = sorted(ledger.read("trials", ["started", "finished"]).to_pylist(), key=lambda row: row["started"])
    pauses = [(after["started"] - row["finished"]).total_seconds() for row, after in itertools.pairwise(rows)]
    way = "between two trials"
    return told(Contest("orchestration", "", f"{TRIALS} trials in turn", {way: lambda: None}), {way: pauses}, CPU)


def _reading(ledger: Ledger, place: str) -> Contest:
    apart, merged = (_copied(ledger, place, name) for name in ("apart", "merged"))
    compact(merged)
    ways = {"as written": lambda: _read(apart), "compacted": lambda: _read(merged)}
    return Contest("reading a ledger", "", f"{READ} trials", ways)


def _copied(ledger: Ledger, place: str, name: str) -> Ledger:
    """READ trials that found what one of the ledger's did."""
    definition, copies, trees = ledger.definition(), Ledger(place, name), {}
    trial, tree = next(iter(definition["trials"].items()))
    found = {table: ledger.read(table, trials=[trial]).drop(["trial", "attempt"]).to_pylist() for table in SCHEMAS}
    for number in range(READ):
        trees[f"{trial}-{number}"] = tree | {"seed": number}
        copies.write(f"{trial}-{number}", 1, found)
    copies.define(definition | {"study": name, "trials": trees})
    return copies


def _read(ledger: Ledger) -> None:
    """What `status` and the report ask for."""
    trial_states(stored_study(ledger.study, ledger.definition()), ledger)
    found = tables.load([ledger])
    assert len(found.trials) == READ
    assert len(found.images)
    assert len(found.calibration)
    assert len(found.curves())
