"""`clean` and `delete`: what they remove, what they keep, and when they refuse."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from finished import copy_store, digests, trial_of
from PIL import Image
from test_stages import CHEAP, carry_out, study_of

from analysis.searches import best_proposals
from diffseg.training import checkpoints
from studies.commands.program import main
from studies.definition.study import stored_study
from studies.definition.trial import Trial, trial_name
from studies.engine.cleaning import NETWORK, plan_cleaning, remove
from studies.engine.request import build_request
from studies.engine.resources import Resources
from studies.engine.worker import run_trial
from studies.search.history import read_searches
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.sizes import measure_sizes

TABLES = ("trials", "curves", "timesteps", "images", "calibration", "examples")


@pytest.fixture
def store(finished, tmp_path):
    """A copy of the finished study `small`, which tests may change."""
    return copy_store(finished, tmp_path / "copy")


def call(*arguments, store: Path):
    return CliRunner().invoke(main, [*arguments, "--store", str(store)])


def study_in(store: Path):
    ledger = Ledger(str(store), "small")
    return stored_study("small", ledger.definition()), ledger


def networks_in(store: Path) -> set[str]:
    return {path.parent.name for path in (store / "small/work").glob("*/step-*.pt")}


def add_full_checkpoints(store: Path, trial: str, named: bool = False) -> str:
    """Leave the checkpoints of a trial as an earlier version did, or a session that was killed; return the last one's name.

    named: The ledger names the full checkpoint, and there are no weights yet.
    """
    folder = store / "small/work" / trial
    (path,) = folder.glob("step-*.pt")
    saved = torch.load(path, weights_only=True)
    copies = [{key: value.clone() for key, value in saved["average"].items()} for _ in range(3)]
    full = saved | {"network": copies[0], "optimiser": {"state": copies[1:], "param_groups": []}}
    for step in (3, 6):
        checkpoints.save(folder, step, full | {"step": step})
    last = next(one.name for one in folder.glob("step-00000006-*.pt") if not checkpoints.is_weights(one.name))
    if named:
        ledger = Ledger(str(store), "small")
        (row,) = (row for row in ledger.last_rows() if row["trial"] == trial)
        ledger.write(trial, 2, {"trials": [{**row, "attempt": 2, "checkpoint": last}]})
        path.unlink()
    return last


def predict(store: Path, trial: str):
    picture = store.parent / "a.png"
    Image.new("RGB", (20, 30), "red").save(picture)
    return call("predict", "small", trial, str(picture), "--output", str(store.parent / "out"), store=store)


@pytest.mark.parametrize("named", [False, True])
def test_full_checkpoints_of_ended_trials_are_removed_and_predictions_stay(named, store):
    trial = trial_of(store, "e2")
    expected = predict(store, trial).output
    masks = digests(store.parent / "out")
    add_full_checkpoints(store, trial, named)
    before = sum(path.stat().st_size for path in (store / "small").rglob("*.pt"))
    tables = {table: digests(store / "small" / table) for table in TABLES}
    dry = call("clean", "small", "--dry-run", store=store)
    assert dry.output.startswith("would remove checkpoints of 1 trial: ")
    assert sum(path.stat().st_size for path in (store / "small").rglob("*.pt")) == before
    result = call("clean", "small", store=store)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("removed checkpoints of 1 trial: ")
    (path,) = (store / "small/work" / trial).glob("step-*")
    assert checkpoints.is_weights(path.name)
    assert {table: digests(store / "small" / table) for table in TABLES} == tables
    shutil.rmtree(store.parent / "out")
    assert predict(store, trial).output == expected
    assert digests(store.parent / "out") == masks
    assert call("clean", "small", store=store).output == "small has nothing to clean\n"


def test_the_size_of_a_dry_run_is_about_what_is_freed(store):
    add_full_checkpoints(store, trial_of(store, "e2"), named=True)
    study, ledger = study_in(store)
    (planned,) = plan_cleaning(study, ledger, None, None)
    assert remove(ledger, planned).size == pytest.approx(planned.size, rel=0.05)


def test_the_best_of_each_data_set_and_the_members_of_a_deep_ensemble_keep_their_networks(store):
    study, _ = study_in(store)
    pooled, member = trial_of(store, "e1", (0, 1)), trial_of(store, "e1")
    everything = networks_in(store)
    assert len(everything) == 4
    rows = json.loads(call("best", "small", "--json", store=store).stdout)
    best = rows[0]["trial"]
    result = call("clean", "small", "--keep", "best:1", store=store)
    assert result.exit_code == 0, result.output
    config = next(trial.config for trial in study.trials if trial.name == best)
    assert networks_in(store) == ({trial_name(one) for one in config.needs()} or {best})
    assert pooled not in everything
    removed = next(iter(everything - networks_in(store) - {trial_of(store, "e3")}))
    result = predict(store, removed)
    assert result.exit_code == 2
    assert "as `diffseg clean --keep` does: run it again in a study of another name" in result.output
    assert result.output.count("\n") == 1
    assert (store / "small/work" / member / "log.txt").exists()
    assert call("status", "small", store=store).output.count("complete") >= 5


def test_networks_that_unfinished_trials_build_on_are_kept(store):
    """The deep ensemble has failed: its members stay whatever their metrics are."""
    pooled = trial_of(store, "e1", (0, 1))
    ledger = Ledger(str(store), "small")
    ledger.write(pooled, 2, {"trials": [{"study": "small", "status": "failed", "dataset": "synthetic-large"}]})
    call("clean", "small", "--keep", "best:1", store=store)
    assert {trial_of(store, "e1", (seed,)) for seed in (0, 1)} <= networks_in(store)


def test_a_training_that_an_unfinished_trial_shares_is_kept(store):
    study, ledger = study_in(store)
    e2 = next(trial for trial in study.trials if trial.config.experiment == "e2")
    shared = e2.config.with_leaves({"inference.steps": 3}).resolved()
    assert shared.trained == e2.config.trained
    definition = ledger.definition()
    ledger.define(definition | {"trials": definition["trials"] | {"other": shared.model_dump(mode="json")}})
    rows = json.loads(call("best", "small", "--json", store=store).stdout)
    call("clean", "small", "--keep", "best:1", store=store)
    assert rows[0]["trial"] != e2.name or len(rows) > 1
    assert e2.name in networks_in(store)


@pytest.mark.parametrize(
    "settings",
    [
        {"constraints": {"ece": 0.1}},
        {"folds": 2, "objective": ["iou", "ece"], "constraints": {"ece": 0.1}},
        {"fidelities": [CHEAP], "folds": 3},
    ],
    ids=["a constraint", "several objectives", "fidelities and folds"],
)
def test_the_proposals_that_best_shows_first_keep_their_networks(settings, tmp_path):
    study, ledger = study_of(**{"budget": 6, "confirm": "0x0"} | settings), Ledger(str(tmp_path), "searched")
    carry_out(study, ledger)
    for row in ledger.last_rows():  # half of the proposals exceed the constraint, the best among them
        ledger.folder.write(f"work/{row['trial']}/step-00000900.pt", b"weights")
        change = {"attempt": 2, "ece": 0.05 if row["iou"] < 0.75 else 0.2}
        ledger.write(row["trial"], 2, {"trials": [row | change]})
    every = {f"work/{row['trial']}" for row in ledger.last_rows()}
    proposals = {one.proposal.trial: one for search in read_searches(study, ledger) for one in search.tried}
    for metric in (None, "ece"):
        shown = best_proposals(ledger, [study.starts[0].name], metric, pareto=False)
        removed = {one.folder for one in plan_cleaning(study, ledger, 2, metric) if one.kind == NETWORK}
        stages = [stage for row in shown[:2] for stage in proposals[row["trial"]].stages if not stage.cheap]
        assert every - removed == {f"work/{stage.trial}" for stage in stages}
        assert len(stages) == 2 * settings.get("folds", 1)
        if "constraints" in settings:
            assert shown[0]["iou"] < max(row["iou"] or 0 for row in shown)


def test_after_clean_a_trial_that_shares_the_training_trains_itself(store, monkeypatch):
    study, ledger = study_in(store)
    e2 = next(trial for trial in study.trials if trial.config.experiment == "e2")
    for path in (store / "small/work" / e2.name).glob("step-*"):
        path.unlink()
    shared = e2.config.with_leaves({"inference.steps": 3}).resolved()
    request = build_request(study, ledger, Resources(gpus=0), (None, False), Trial("other", shared))
    assert run_trial(request) == "complete"
    assert next(row for row in ledger.last_rows() if row["trial"] == "other")["network_of"] is None


def test_a_failed_trial_keeps_the_checkpoint_that_retry_resumes_from(store):
    trial = trial_of(store, "e2")
    last = add_full_checkpoints(store, trial, named=True)
    Ledger(str(store), "small").write(trial, 3, {"trials": [{"study": "small", "status": "failed"}]})
    call("clean", "small", store=store)
    assert [path.name for path in (store / "small/work" / trial).glob("step-*")] == [last]
    call("clean", "small", "--keep", "best:1", store=store)
    assert not [*(store / "small/work" / trial).glob("step-*")]


def test_a_trial_that_has_not_ended_is_left_alone(store):
    trial = trial_of(store, "e2")
    add_full_checkpoints(store, trial)
    (store / "small/work" / trial / "progress.json").write_text("{}")
    shutil.copytree(store / "small/work" / trial, store / "small/work" / "never-recorded")
    before = {name: digests(store / "small/work" / name) for name in (trial, "never-recorded")}
    call("clean", "small", "--keep", "best:1", "--metric", "ece", store=store)
    assert {name: digests(store / "small/work" / name) for name in before} == before


def test_files_of_killed_sessions_are_removed(store):
    for name in ("scratch/tune/a", "tmp/0123"):
        (store / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (store / "small" / name).write_bytes(bytes(2**20))
    assert call("clean", "small", store=store).output == "removed temporary files: 2.0 MiB in 2 files\n"
    assert not (store / "small/scratch/tune").exists()


def test_a_damaged_checkpoint_is_named_and_stays(store, caplog):
    trial = trial_of(store, "e2")
    last = store / "small/work" / trial / add_full_checkpoints(store, trial, named=True)
    last.write_bytes(last.read_bytes()[:1000])
    before = digests(last.parent)
    result = call("clean", "small", store=store)
    assert result.exit_code == 0
    assert f"{last} is damaged" in caplog.text
    assert digests(last.parent) == before


def test_a_metric_that_nothing_measured_removes_nothing(store):
    before = digests(store)
    result = call("clean", "small", "--keep", "best:1", "--metric", "ged", store=store)
    assert result.exit_code == 2, result.output
    assert "no trial of small has measured ged" in result.output
    assert digests(store / "small/work") == {
        path.removeprefix("small/work/"): digest for path, digest in before.items() if path.startswith("small/work/")
    }


@pytest.mark.parametrize("command", [["clean", "--keep", "best:1"], ["delete", "--yes"]])
def test_a_study_that_a_session_runs_is_refused(command, store):
    lock = Lock(Ledger(str(store), "small").folder)
    lock.acquire()
    before = digests(store / "small/work")
    try:
        result = call(command[0], "small", *command[1:], store=store)
    finally:
        lock.release()
    assert result.exit_code == 2
    assert "study small is being run by process" in result.output
    assert result.output.count("\n") == 1
    assert digests(store / "small/work") == before


class Killed(BaseException):
    """Like SIGKILL: no code handles it."""


def kill_at(monkeypatch, call: int) -> None:
    """Kill the program at one of its removals of files and folders."""
    calls = itertools.count(1)

    def killing(real):
        def operation(*arguments, **options):
            if next(calls) == call:
                raise Killed
            return real(*arguments, **options)

        return operation

    for name in ("remove", "clear"):
        monkeypatch.setattr(Folder, name, killing(getattr(Folder, name)))


@pytest.mark.parametrize("call_number", [1, 2, 3, 5, 10, 20])
def test_a_killed_deletion_can_be_repeated(call_number, store, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at(patched, call_number)
        with pytest.raises(Killed):
            call("delete", "small", "--yes", store=store)
    assert call("delete", "small", "--yes", store=store).exit_code == 0
    assert not (store / "small").exists()


@pytest.mark.parametrize("call_number", [1, 2, 3, 4])
def test_a_killed_cleaning_can_be_repeated(call_number, store, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at(patched, call_number)
        with contextlib.suppress(Killed):
            call("clean", "small", "--keep", "best:1", store=store)
    assert call("clean", "small", "--keep", "best:1", store=store).exit_code == 0
    assert call("clean", "small", "--keep", "best:1", store=store).output == "small has nothing to clean\n"


@pytest.mark.parametrize(("answer", "left"), [("y", False), ("n", True), ("", True)])
def test_delete_asks_and_says_what(answer, left, store, monkeypatch):
    monkeypatch.setattr("studies.commands.cleaning.is_terminal", lambda: True)
    result = CliRunner().invoke(main, ["delete", "small", "--store", str(store)], input=f"{answer}\n")
    assert result.exit_code == 0, result.output
    assert "small has 5 trials with results, " in result.output
    assert f"MiB in {store}/small" in result.output
    assert (store / "small").exists() == left
    assert ("nothing was deleted" in result.output) == left


def test_a_study_with_a_damaged_definition_can_be_deleted(store):
    (store / "small/study.json").write_text("{")
    assert call("delete", "small", "--yes", store=store).exit_code == 0
    assert not (store / "small").exists()


def test_status_gives_the_sizes_of_all_files(store):
    rows = json.loads(call("status", "small", "--size", "--json", store=store).output)
    for row in rows:
        folder = store / "small/work" / row["trial"]
        assert row["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    _, ledger = study_in(store)
    assert measure_sizes(ledger).total == sum(
        path.stat().st_size for path in (store / "small").rglob("*") if path.is_file()
    )
    assert "bytes" not in json.loads(call("status", "small", "--json", store=store).output)[0]
    assert " on disk" not in call("status", "small", store=store).output
