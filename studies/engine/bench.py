"""Benchmarks of the engine: the pause between two trials of a study, and the time to read a ledger."""

import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from analysis import tables
from diffseg.bench.harness import Benchmark, summarise
from diffseg.bench.harness import measure as measure_in_turns
from diffseg.config import Config
from diffseg.rows import Row
from studies.definition.study import Study, stored_study
from studies.definition.trial import Trial, trial_name
from studies.engine.resources import Resources
from studies.engine.session import run
from studies.store.compaction import compact
from studies.store.ledger import Ledger
from studies.store.state import trial_states
from studies.store.tables import SCHEMAS

TRIALS = 8  # that run one after the other
READ = 300  # trials of the ledger that is read
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


def measure(rounds: int) -> list[Row]:
    """Run a study of TRIALS trials in a temporary store and return the rows of `diffseg.bench.harness.summarise`."""
    with tempfile.TemporaryDirectory() as store:
        ledger = _run_trials(store)
        return _measure_pauses(ledger) + measure_in_turns(_ledger_reading(ledger, store), rounds, CPU)


def _run_trials(store: str) -> Ledger:
    """Run TRIALS tiny trials one after the other and return their ledger."""
    configs = [Config().with_leaves(TINY | {"seed": seed}).resolved() for seed in range(TRIALS)]
    study = Study("bench", tuple(Trial(trial_name(config), config) for config in configs), {})
    ledger = Ledger(store, study.name)
    run(study, ledger, Resources(gpus=0, concurrency=1), quiet=True)
    return ledger


def _measure_pauses(ledger: Ledger) -> list[Row]:
    """Summarise the times from the end of a trial to the start of the next one."""
    rows = sorted(ledger.read("trials", ["started", "finished"]).to_pylist(), key=lambda row: row["started"])
    pauses = [(after["started"] - row["finished"]).total_seconds() for row, after in itertools.pairwise(rows)]
    way = "between two trials"
    benchmark = Benchmark("orchestration", "", f"{TRIALS} trials in turn", {way: lambda: None})
    return summarise(benchmark, {way: pauses}, CPU)


def _ledger_reading(ledger: Ledger, store: str) -> Benchmark:
    """Return a benchmark that reads a ledger of READ trials as written and compacted."""
    separate, merged = (_multiply(ledger, store, name) for name in ("apart", "merged"))
    compact(merged)
    ways: dict[str, Callable[[], object]] = {"as written": lambda: _read(separate), "compacted": lambda: _read(merged)}
    return Benchmark("reading a ledger", "", f"{READ} trials", ways)


def _multiply(ledger: Ledger, store: str, name: str) -> Ledger:
    """Write a ledger of READ trials, each with the results of the first trial of the given one."""
    definition, copies = ledger.definition() or {}, Ledger(store, name)
    trees: dict[str, Any] = {}
    trial, tree = next(iter(definition["trials"].items()))
    found = {table: ledger.read(table, trials=[trial]).drop(["trial", "attempt"]).to_pylist() for table in SCHEMAS}
    for number in range(READ):
        trees[f"{trial}-{number}"] = tree | {"seed": number}
        copies.write(f"{trial}-{number}", 1, found)
    copies.define(definition | {"study": name, "trials": trees})
    return copies


def _read(ledger: Ledger) -> None:
    """Read what `diffseg status` and the report read."""
    trial_states(stored_study(ledger.study, ledger.definition() or {}), ledger)
    found = tables.load([ledger])
    assert len(found.trials) == READ
    assert len(found.images)
    assert len(found.calibration)
    assert len(found.curves())
