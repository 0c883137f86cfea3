"""Unusable checkpoints: prediction refuses them and writes nothing; training resumes from the one before."""

import hashlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from finished import copy_store, digests, trial_of
from PIL import Image

from diffseg import trial
from diffseg.errors import Stopped, UserError
from diffseg.labels.labels import Labels
from diffseg.training import checkpoints
from diffseg.training.hooks import Hooks
from diffseg.training.state import load_trained, start_or_resume
from studies.commands.program import main
from studies.store.ledger import Ledger


def replaced(path: Path, state) -> Path:
    """Replace a checkpoint by a sound one of the same step with another state, and return it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return named_by_digest(path, buffer.getvalue())


def named_by_digest(path: Path, data: bytes) -> Path:
    path.unlink()
    path = path.with_name(f"{path.stem.rpartition('-')[0]}-{hashlib.sha256(data).hexdigest()[:16]}.pt")
    path.write_bytes(data)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def without_keys(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    replaced(path, state | {"average": {}})


def of_another_width(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    key = next(iter(state["average"]))
    replaced(path, state | {"average": state["average"] | {key: torch.zeros(1, 2, 3)}})


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS = {
    "one bit is another": flip,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "text": lambda path: path.write_bytes(b"hello"),
    "text with its digest": lambda path: named_by_digest(path, b"hello"),
    "a list": lambda path: replaced(path, [1, 2]),
    "no network": lambda path: replaced(path, {"step": 6}),
    "no keys": without_keys,
    "another shape": of_another_width,
}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def predict(store: Path, name: str, picture: Path):
    arguments = ["predict", "small", name, str(picture), "--store", str(store), "--output", str(store.parent / "out")]
    return CliRunner().invoke(main, arguments)


def newest_of(folder: Path) -> Path:
    return sorted(folder.glob("step-*.pt"))[-1]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_prediction_changes_nothing_in_the_store(experiment, seeds, finished, picture, tmp_path):
    if experiment == "e2" and len(seeds) > 1:
        pytest.skip("only E1 has deep ensembles")
    before = digests(finished)
    store = copy_store(finished, tmp_path / "copy")
    result = predict(store, trial_of(store, experiment, seeds), picture)
    assert result.exit_code == 0, result.output
    assert digests(store) == before


REFUSED = FAULTS | {
    "a folder": become_a_folder,
    "removed": Path.unlink,
    "all removed": lambda path: [one.unlink() for one in path.parent.glob("step-*.pt")],
    "the folder is gone": lambda path: [*(one.unlink() for one in path.parent.iterdir()), path.parent.rmdir()],
    "another trial's": lambda path: path.rename(path.with_name(path.name[:13] + "-0123456789abcdef.pt")),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("fault", REFUSED)
def test_prediction_refuses_all_but_the_final_checkpoint(fault, seeds, finished, picture, tmp_path):
    """With seeds, it is the second member of a deep ensemble that is damaged."""
    store = copy_store(finished, tmp_path / "copy")
    name = trial_of(store, "e1", seeds[-1:])
    REFUSED[fault](newest_of(store / "small/work" / name))
    before = digests(store)
    result = predict(store, trial_of(store, "e1", seeds), picture)
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1
    assert name in result.output  # the path of the file or folder
    assert digests(store) == before
    assert not (store.parent / "out").exists()


def test_a_checkpoint_of_another_trial_of_the_same_network_is_refused(finished, picture, tmp_path):
    store = copy_store(finished, tmp_path / "copy")
    mine, other = (newest_of(store / "small/work" / trial_of(store, "e1", (seed,))) for seed in (0, 1))
    mine.unlink()
    (mine.parent / other.name).write_bytes(other.read_bytes())
    result = predict(store, mine.parent.name, picture)
    assert result.exit_code == 2
    assert f"lacks {mine.name}" in result.output


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", REFUSED)
def test_without_a_ledger_the_newest_checkpoint_has_to_be_of_the_last_step(fault, tiny, tmp_path):
    config = tiny(experiment="e1")
    trial.run(config, None, tmp_path / "trial", device="cpu")
    expected = start_or_resume(config, tmp_path / "trial", torch.device("cpu")).average.state_dict()
    found = load_trained(config, tmp_path / "trial", torch.device("cpu")).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    REFUSED[fault](newest_of(tmp_path / "trial"))
    with pytest.raises(UserError):
        load_trained(config, tmp_path / "trial", torch.device("cpu"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", FAULTS)
def test_training_resumes_from_the_checkpoint_before(fault, tiny, tmp_path, caplog):
    config = tiny(experiment="e1")
    trial.run(config, None, tmp_path, device="cpu")
    FAULTS[fault](newest_of(tmp_path))
    assert start_or_resume(config, tmp_path, torch.device("cpu")).step == 3
    assert "resuming from the checkpoint before it" in caplog.text


def test_the_ledger_names_the_file_that_a_training_ended_with(tiny, tmp_path, monkeypatch):
    config = tiny(experiment="e1")
    outcome = trial.run(config, None, tmp_path / "whole", device="cpu")
    assert outcome.trial["checkpoint"] == newest_of(tmp_path / "whole").name
    save = checkpoints.save
    monkeypatch.setattr(
        checkpoints, "save", lambda folder, step, *more, **kind: step == 6 or save(folder, step, *more, **kind)
    )
    assert trial.run(config, None, tmp_path / "full", device="cpu").trial["checkpoint"] is None


KEPT = {"average", "step", "seconds", "micro_batch", "curves", "snapshots"}


def test_a_training_that_has_ended_keeps_what_predicts_in_one_file(tiny, tmp_path):
    config, cpu = tiny(experiment="e2"), torch.device("cpu")
    whole = trial.run(config, None, tmp_path, device="cpu")
    assert checkpoints.holds_weights(tmp_path)
    checkpoints.keep_weights(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == whole.trial["checkpoint"]
    saved = torch.load(path, weights_only=True)
    assert saved.keys() == KEPT
    assert path.stat().st_size < 1.2 * 4 * whole.trial["parameters"] + 50_000
    load_trained(config, tmp_path, cpu, whole.trial["checkpoint"])
    again = trial.run(config, None, tmp_path, device="cpu")
    assert (again.curves, again.timesteps, again.images) == (whole.curves, whole.timesteps, whole.images)
    assert again.trial["micro_batch"] == whole.trial["micro_batch"]
    assert again.trial["train_seconds"] == whole.trial["train_seconds"]


class Killed(BaseException):
    """Like SIGKILL: no code handles it."""


def kill_at(monkeypatch, call: int) -> list[str]:
    """Kill the program at one of its operations on files, before or after it; return the list of those that it made."""
    made: list[str] = []

    def killing(name, real):
        def operation(*arguments, **options):
            made.append(name)
            if len(made) == call:
                raise Killed
            found = real(*arguments, **options)
            made.append(f"after {name}")
            if len(made) == call:
                raise Killed
            return found

        return operation

    for owner, name in ((Path, "open"), (checkpoints.os, "fsync"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, killing(name, getattr(owner, name)))
    return made


def stopped_at_the_end(config, folder: Path, pruned: bool) -> int:
    """Train to the end, or leave what a training leaves that is pruned at its last step; return the step."""
    trial.run(config, None, folder, device="cpu")
    if pruned:
        newest_of(folder).unlink()
    return 3 if pruned else 6


@pytest.mark.slow
@pytest.mark.parametrize("pruned", [False, True])
def test_a_kill_while_a_folder_is_reduced_loses_nothing(pruned, tiny, tmp_path, monkeypatch):
    config, cpu = tiny(experiment="e1"), torch.device("cpu")
    step = stopped_at_the_end(config, tmp_path / "whole", pruned)
    expected = checkpoints.load(tmp_path / "whole", "cpu")["average"]
    call, ended = 0, False
    while not ended:
        call += 1
        folder = tmp_path / str(call)
        shutil.copytree(tmp_path / "whole", folder)
        with monkeypatch.context() as patched:
            made = kill_at(patched, call)
            try:
                checkpoints.keep_weights(folder)
                ended = True
            except Killed:
                pass
        found = checkpoints.load(shutil.copytree(folder, tmp_path / f"{call} loaded"), "cpu")
        assert found["step"] == step
        assert all(torch.equal(found["average"][key], expected[key]) for key in expected)
        if not pruned:
            load_trained(config, folder, cpu)
        checkpoints.keep_weights(folder)
        (path,) = folder.iterdir()
        assert torch.load(path, weights_only=True).keys() == KEPT
    assert {"unlink", "after unlink"} <= set(made)
    assert ("fsync" in made) == pruned


@pytest.mark.parametrize("fault", ["one bit is another", "empty"])
def test_a_folder_whose_newest_checkpoint_is_damaged_is_not_reduced(fault, tiny, tmp_path):
    trial.run(tiny(experiment="e1"), None, tmp_path, device="cpu")
    FAULTS[fault](newest_of(tmp_path))
    before = digests(tmp_path)
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.keep_weights(tmp_path)
    assert digests(tmp_path) == before


def test_a_longer_training_does_not_resume_from_the_end_of_a_shorter_one(tiny, tmp_path, caplog):
    short, long = tiny(experiment="e1"), tiny(experiment="e1", training__steps=9)
    assert short.trained != long.trained
    trial.run(short, None, tmp_path, device="cpu")
    checkpoints.keep_weights(tmp_path)
    assert start_or_resume(long, tmp_path, torch.device("cpu")).step == 0
    assert "ended at another step than 9" in caplog.text


def test_the_ledger_may_name_the_checkpoint_that_the_weights_were_made_of(tiny, tmp_path):
    """Checkpoints of pruned trials and of earlier versions are reduced when the ledger has named them."""
    config = tiny(experiment="e1")
    with pytest.raises(Stopped):
        trial.run(config, None, tmp_path, device="cpu", hooks=Hooks(should_stop=iter([False] * 4 + [True]).__next__))
    name = newest_of(tmp_path).name
    assert torch.load(tmp_path / name, weights_only=True).keys() == KEPT | {"network", "optimiser"}
    checkpoints.keep_weights(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(f"step-00000005-weights-of-{name[14:30]}-")
    assert checkpoints.load_final(tmp_path, name, 5, "cpu", None)["step"] == 5
    other = name.replace(name[14:30], "0123456789abcdef")
    with pytest.raises(UserError, match=f"lacks {other}"):
        checkpoints.load_final(tmp_path, other, 5, "cpu", None)


@pytest.mark.parametrize("scaling", [None, "", "{}", "[1]", "null", '{"low": 0}'])
def test_a_row_without_the_scaling_of_images_is_refused(scaling, finished, picture, tmp_path):
    store = copy_store(finished, tmp_path / "copy")
    name = trial_of(store, "e1")
    Ledger(str(store), "small").write(
        name, 2, {"trials": [{"study": "small", "status": "complete", "scaling": scaling}]}
    )
    # The first attempt would be read in place of a row that is not JSON.
    (store / "small" / "trials" / f"{name}-1.parquet").unlink()
    result = predict(store, name, picture)
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1


CLASSES = {  # networks of equal shapes
    "binary": {},
    "named": {"data__classes": {"tumour": 1}},
    "another value": {"data__classes": {"tumour": 2}},
    "another name": {"data__classes": {"organ": 2}},
}
OF_SEVERAL = {
    "two": {"data__classes": {"left": 1, "right": 2}},
    "exchanged": {"data__classes": {"left": 2, "right": 1}},
    "united": {"data__classes": {"left": 1, "right": [2, 3]}},
    "renamed": {"data__classes": {"left": 1, "middle": 2}},
    "in another order": {"data__classes": {"right": 2, "left": 1}},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("classes", "other"),
    [(a, b) for table in (CLASSES, OF_SEVERAL) for a in table.values() for b in table.values() if a != b],
)
def test_a_checkpoint_of_other_classes_is_refused(classes, other, tiny, tmp_path, caplog):
    config, device = tiny(experiment="e1", training__steps=1, **classes), torch.device("cpu")
    state = start_or_resume(config, tmp_path, device)
    state.step = 1
    state.save(tmp_path)
    assert ("classes" in checkpoints.load(tmp_path, device)) == bool(classes)
    load_trained(config, tmp_path, device)
    others = tiny(experiment="e1", training__steps=1, **other)
    mine, theirs = (Labels.of(one).classes.description for one in (config, others))
    with pytest.raises(
        UserError, match=re.escape(f"(it was trained on {mine}, not on {theirs}): bring the trial's own")
    ):
        load_trained(others, tmp_path, device)
    assert start_or_resume(config, tmp_path, device).step == 1
    assert start_or_resume(others, tmp_path, device).step == 0
    assert f"it was trained on {mine}, not on {theirs}" in caplog.text
