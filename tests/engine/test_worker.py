"""Workers: their deaths, the notice that a node goes, and the reuse of another trial's training."""

import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from ray.train import ControllerError, WorkerGroupError
from test_folder import request_of

from diffseg import trial
from diffseg.training import checkpoints, step
from diffseg.training.hooks import Hooks
from diffseg.training.state import TrainingState
from studies.engine import driver, provenance
from studies.engine.files import STARTS
from studies.engine.interruption import PreemptionNotice
from studies.engine.preparation import count_starts
from studies.engine.worker import WORKER_DEATHS, run_trial
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.progress import read_progress


class Killed(BaseException):
    """Like SIGKILL: no code handles it."""


def test_a_trial_whose_worker_dies_repeatedly_fails(tiny, tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path), "study")
    ledger.define({})
    request = request_of(str(tmp_path), tiny(experiment="e1"))

    def die(*_, **__):
        raise Killed

    monkeypatch.setattr(trial, "run", die)
    for _ in range(WORKER_DEATHS + 1):
        try:
            run_trial(request)
        except Killed:
            assert ledger.last_attempts() == {}
    assert run_trial(request) == "failed"
    (row,) = ledger.last_rows()
    assert row["error"] == "its worker died 4 times without a new checkpoint"
    assert read_progress(request.folder) is None
    assert not request.folder.exists(STARTS)


def test_an_error_of_ray_or_the_store_is_raised_and_not_recorded_as_a_failed_trial(tiny, tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path), "study")
    ledger.define({})
    request, reports = asdict(request_of(str(tmp_path), tiny(experiment="e1"))), []

    def failing(error):
        def fit(self):
            raise error

        return fit

    monkeypatch.setattr(driver.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "x"))
    monkeypatch.setattr(driver.tune, "report", reports.append)
    monkeypatch.setattr(driver.LeanTrainer, "fit", failing(ControllerError(OSError(28, "No space left on device"))))
    with pytest.raises(ControllerError, match="No space left"):
        driver.run_driver(request)
    assert ledger.last_attempts() == {}
    monkeypatch.setattr(driver.LeanTrainer, "fit", failing(WorkerGroupError("gone", {0: RuntimeError("gone")})))
    driver.run_driver(request)
    assert reports == [{"status": "failed", "finished": True}]
    assert "its worker died 101 times" in ledger.last_rows()[0]["error"]


def test_another_driver_or_checkpoint_resets_the_count_of_starts(tiny, tmp_path):
    request = request_of(str(tmp_path), tiny(experiment="e1"))
    folder = request.folder.local
    folder.mkdir(parents=True)
    assert [count_starts(request, folder) for _ in range(3)] == [1, 2, 3]
    (folder / "step-00000010-abc.pt").touch()
    assert [count_starts(request, folder) for _ in range(2)] == [1, 2]
    assert count_starts(replace(request, driver="another"), folder) == 1


def test_starts_are_counted_for_each_node(tiny, tmp_path):
    """A trial that breaks its worker does so again on the same node; the loss of nodes is no fault of the trial."""
    request = request_of(str(tmp_path), tiny(experiment="e1"))
    folder = request.folder.local
    folder.mkdir(parents=True)
    there, elsewhere = replace(request, node="one"), replace(request, node="two")
    assert [count_starts(one, folder) for one in (there, elsewhere, there, elsewhere, there)] == [1, 1, 2, 2, 3]


def test_trials_that_differ_in_how_they_predict_are_trained_once(tiny, tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path / "store"), "study")
    ledger.define({})
    configs = [tiny(experiment="e2", inference__steps=steps) for steps in (2, 3)]
    requests = [
        request_of(str(tmp_path / "store"), config, trial=f"t{number}") for number, config in enumerate(configs)
    ]
    assert run_trial(requests[0]) == "complete"
    monkeypatch.setattr(step, "compute_gradients", None)  # any further training would fail
    assert run_trial(requests[1]) == "complete"
    first, second = ledger.last_rows()
    assert (first["network_of"], second["network_of"]) == (None, "t0")
    assert first["train_seconds"] == second["train_seconds"]
    monkeypatch.undo()
    alone = Ledger(str(tmp_path / "alone"), "study")
    alone.define({})
    run_trial(request_of(str(tmp_path / "alone"), configs[1]))
    (expected,) = alone.last_rows()
    for name in ("iou", "ece", "brier", "steps", "trained"):
        assert second[name] == expected[name]


def test_settings_of_measurements_during_training_are_part_of_the_training(tiny):
    trained = lambda **leaves: tiny(experiment="e2", **leaves).trained  # noqa: E731
    assert trained(inference__steps=3) == trained(inference__ensemble=7) == trained()
    assert trained(inference__timesteps=9) != trained()
    assert trained(inference__timesteps=9, training__snapshots=[]) == trained(training__snapshots=[])
    assert trained(inference__steps=3, training__evaluations=[1.0]) != trained(training__evaluations=[1.0])
    assert trained(seed=3) != trained()


def test_a_checkpoint_is_saved_when_it_is_requested(tiny, tmp_path, monkeypatch):
    config, calls, saved = tiny(experiment="e1", training__checkpoint_every=100), [], []
    save = TrainingState.save

    def should_save():
        calls.append(1)
        return len(calls) == 2

    def record_save(state, folder):
        saved.append(state.step)
        save(state, folder)

    monkeypatch.setattr(TrainingState, "save", record_save)
    trial.run(config, None, tmp_path, device="cpu", hooks=Hooks(should_save=should_save))
    assert saved == [2, 6]


def test_the_commit_of_the_code_is_known_in_its_repository_alone(tmp_path, monkeypatch):
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the code is not in a git repository")
    assert provenance.code_version()[0] == done.stdout.strip()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.code_version() == (None, False)


def test_a_preemption_notice_is_returned_once(monkeypatch):
    notices = []
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notices or None)
    assert not PreemptionNotice()()  # Ray's watcher does not run
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    notice = PreemptionNotice()
    assert not notice()
    notices.append("soon")
    assert not notice()  # Ray is asked once a second
    notice.looked = 0.0
    assert notice()
    assert not notice()


class TestReduction:
    """Trials that have ended keep their weights alone, in one file, whenever their worker dies."""

    def rows(self, ledger: Ledger) -> dict:
        tables = ("trials", "images", "timesteps", "curves")
        varying = {
            "host",
            "started",
            "finished",
            "seconds",
            "gpu_seconds",
            "train_seconds",
            "evaluate_seconds",
            "study",
        }
        varying |= {"log", "checkpoint"}
        return {
            table: [{k: v for k, v in row.items() if k not in varying} for row in ledger.read(table).to_pylist()]
            for table in tables
        }

    def run_until_recorded(self, request) -> str:
        while True:
            try:
                return run_trial(request)
            except Killed:
                continue

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("call", range(1, 12))
    def test_a_worker_killed_at_any_step_after_training_records_the_same(self, call, tiny, tmp_path, monkeypatch):
        """Killed when a file of the ledger is written, or while the folder is reduced; before or after it."""
        config = tiny(experiment="e2")
        for name in ("undisturbed", "killed"):
            Ledger(str(tmp_path / name), "study").define({})
        assert run_trial(request_of(str(tmp_path / "undisturbed"), config)) == "complete"
        made = []

        def killing(real):
            def operation(*arguments, **options):
                made.append(real)
                if len(made) == call:
                    raise Killed
                found = real(*arguments, **options)
                made.append(real)
                if len(made) == call:
                    raise Killed
                return found

            return operation

        monkeypatch.setattr(Folder, "remove", killing(Folder.remove))
        monkeypatch.setattr(Ledger, "_write", killing(Ledger._write))
        monkeypatch.setattr(checkpoints, "keep_weights", killing(checkpoints.keep_weights))
        request = request_of(str(tmp_path / "killed"), config)
        assert self.run_until_recorded(request) == "complete"
        assert len(made) >= call
        ledgers = [Ledger(str(tmp_path / name), "study") for name in ("undisturbed", "killed")]
        assert self.rows(ledgers[1]) == self.rows(ledgers[0])
        (path,) = request.folder.local.glob("**/*.pt")
        assert path.name == ledgers[1].last_rows()[0]["checkpoint"]

    def test_a_killed_evaluation_trains_no_step_again(self, tiny, tmp_path, monkeypatch):
        ledger = Ledger(str(tmp_path), "study")
        ledger.define({})
        request = request_of(str(tmp_path), tiny(experiment="e1"))
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "_write", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                run_trial(request)
        monkeypatch.setattr(step, "compute_gradients", None)  # any further training would fail
        assert run_trial(request) == "complete"

    def test_a_pruned_trial_keeps_its_newest_weights(self, tiny, tmp_path, monkeypatch):
        ledger = Ledger(str(tmp_path), "study")
        ledger.define({})
        config = tiny(experiment="e1", training__evaluations=[0.5, 1.0])
        request = replace(
            request_of(str(tmp_path), config),
            rungs={"search": "s", "objective": ["iou"], "reduction": 2, "steps": [3, 6]},
        )
        monkeypatch.setattr("studies.engine.pruning.reason_to_prune", lambda *_: "others are better")
        assert run_trial(request) == "pruned"
        (path,) = request.folder.local.glob("*.pt")
        assert path.name.startswith("step-00000003-weights-of-")
        assert "optimiser" not in torch.load(path, weights_only=True)
        monkeypatch.setattr(trial, "run", None)  # it has ended: a worker that starts once more does nothing
        assert run_trial(request) == "pruned"
        assert ledger.last_attempts() == {request.trial: 1}

    def test_a_failed_trial_keeps_its_checkpoints_to_resume_from(self, tiny, tmp_path, monkeypatch):
        Ledger(str(tmp_path), "study").define({})
        request = request_of(str(tmp_path), tiny(experiment="e1", training__checkpoint_every=2))
        monkeypatch.setattr("diffseg.networks.common.predict_split", None)
        assert run_trial(request) == "failed"
        assert len([*request.folder.local.glob("*.pt")]) == 2

    def test_a_reduction_that_fails_costs_no_trial(self, tiny, tmp_path, monkeypatch, caplog):
        Ledger(str(tmp_path), "study").define({})
        request = request_of(str(tmp_path), tiny(experiment="e1"))
        monkeypatch.setattr(checkpoints, "keep_weights", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
        assert run_trial(request) == "complete"
        assert "stay (read-only): `diffseg clean` removes them" in caplog.text
