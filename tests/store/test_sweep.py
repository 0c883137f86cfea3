"""The disk that a sweep of 200 trials takes: while they train, once they have ended, and after `diffseg clean` (slow)."""

import time

import pytest
import torch
from click.testing import CliRunner
from finished import STUDY

from diffseg.training import checkpoints
from diffseg.training.state import TrainingState, start
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.store.ledger import Ledger

TRIALS = 200
SWEEP = (
    STUDY.partition("[variant.plain]")[0]
    .replace('baseline = "plain"', f"seeds = {list(range(TRIALS))}")
    .replace('["e1", "e2", "e3"]', '["e1"]')
)


def step_once(state: TrainingState) -> None:
    """Give the optimiser its moments."""
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimiser.step()


@pytest.mark.slow
def test_a_sweep_of_two_hundred_trials_takes_an_eighth_of_its_checkpoints(tmp_path):
    """Twice network, EMA and two moments become one EMA. The checkpoints are those that a killed session left."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    study, ledger = read_study(str(tmp_path / "sweep.toml"), {}, {}), Ledger(str(tmp_path / "store"), "sweep")
    ledger.define(study.definition())
    work = ledger.folder.local / "work"
    assert len(study.trials) == TRIALS
    for trial in study.trials:
        state = start(trial.config, torch.device("cpu"))
        step_once(state)
        for state.step in (4, 5):
            state.save(work / trial.name)
        (name,) = (path.name for path in (work / trial.name).glob("step-00000005-*"))
        row = {"study": "sweep", "status": "complete", "dataset": "synthetic-large", "network": "ensemdiff"}
        row |= {"iou": trial.config.seed / TRIALS, "checkpoint": name, "trained": trial.config.trained}
        ledger.write(trial.name, 1, {"trials": [row]})

    def clean(*options: str) -> tuple[int, float]:
        clock = time.perf_counter()
        result = CliRunner().invoke(main, ["clean", "sweep", "--store", str(tmp_path / "store"), *options])
        assert result.exit_code == 0, result.output
        return size(), time.perf_counter() - clock

    def size() -> int:
        return sum(path.stat().st_size for path in work.rglob("*.pt"))

    full, (weights, seconds), (best, _) = size(), clean(), clean("--keep", "best:5")
    print(f"{TRIALS} trials: {full / 2**20:.0f} MiB of checkpoints, {weights / 2**20:.1f} MiB of weights, ", end="")
    print(f"{best / 2**20:.2f} MiB of the best five; clean took {seconds:.1f} s")
    assert 7 * weights < full < 9 * weights
    assert best == pytest.approx(weights / 40, rel=0.01)
    kept = {path.parent.name for path in work.rglob("*.pt")}
    assert kept == {trial.name for trial in study.trials[-5:]}
    assert all(checkpoints.holds_weights(work / name) for name in kept)
