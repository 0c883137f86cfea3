"""Compaction: wherever it is killed, no row is lost or read twice. Reading meanwhile gives the same answer."""

import os
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_ledger import attempt

from diffseg.errors import UserError
from studies.store.compaction import compact
from studies.store.files import TableFiles
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.tables import SCHEMAS
from studies.store.validity import is_merged

TRIALS = [f"e1-x-s0-{k:03d}" for k in range(12)]


def read_everything(ledger):
    """Return all rows of all tables, sorted, and the trials' last attempts."""
    tables = {table: ledger.read(table).to_pylist() for table in SCHEMAS}
    rows = {table: sorted(map(repr, (dict(sorted(row.items())) for row in found))) for table, found in tables.items()}
    return rows | {
        "attempts": ledger.last_attempts(),
        "last": sorted(row["trial"] for row in ledger.last_rows(["status"])),
    }


def fill_ledger(path, trials=TRIALS) -> Ledger:
    ledger = Ledger(str(path), "study")
    for k, trial in enumerate(trials):
        ledger.write(trial, 1, attempt("failed" if k % 4 == 0 else "complete", iou=k / 10))
        if k % 4 == 0:
            ledger.write(trial, 2, attempt(iou=k / 20, config_other=f"leaf {k}"))
    ledger.write("e9-unfinished", 1, {"images": attempt()["images"]})  # no row in `trials`: it did not happen
    return ledger


def count_files(ledger):
    return {table: len(ledger.files.counted_names(table)) for table in ("trials", "images")}


def test_compaction_leaves_one_file_per_table_and_the_same_rows(tmp_path):
    ledger = fill_ledger(tmp_path)
    before = read_everything(ledger)
    assert compact(ledger) == 15
    assert read_everything(ledger) == before
    assert count_files(ledger) == {"trials": 1, "images": 1}
    on_disk = sorted(path.name for path in (tmp_path / "study" / "images").iterdir())
    assert [name for name in on_disk if not is_merged(name)] == ["e9-unfinished-1.parquet"]
    assert compact(ledger) == 0
    assert read_everything(ledger) == before


def test_later_attempts_are_read_and_merged_too(tmp_path):
    ledger = fill_ledger(tmp_path)
    compact(ledger)
    ledger.write("e2-later", 1, attempt(config_new="of a later version"))
    ledger.write(TRIALS[0], 3, attempt(iou=0.99))
    before = read_everything(ledger)
    assert before["attempts"] == {**dict.fromkeys(TRIALS, 1), **dict.fromkeys(TRIALS[4::4], 2)} | {
        TRIALS[0]: 3,
        "e2-later": 1,
    }
    assert compact(ledger) == 2
    assert read_everything(ledger) == before
    assert count_files(ledger) == {"trials": 1, "images": 1}


def test_one_trials_rows_are_found_among_merged_and_loose_ones(tmp_path):
    ledger = fill_ledger(tmp_path)
    compact(ledger)
    ledger.write("e2-later", 1, attempt())
    found = ledger.read("images", ["trial", "value"], trials=[TRIALS[3], "e2-later"]).to_pylist()
    assert sorted(row["trial"] for row in found) == sorted([TRIALS[3], "e2-later"] * 2)
    assert ledger.read("images", trials=[]).num_rows == 0


class Killed(BaseException):
    """The process is gone. Not an Exception, so that nothing catches it and tidies up."""


def compact_killed_at(ledger, monkeypatch, actions: int) -> bool:
    """Compact, killed before the given number of actions that change the disk. Return whether it was killed."""
    done = 0

    def counted(act):
        def wrapper(*arguments, **more):
            nonlocal done
            if done == actions:
                raise Killed
            done += 1
            return act(*arguments, **more)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(pq.ParquetWriter, "write_table", counted(pq.ParquetWriter.write_table))
        patch.setattr(Folder, "remove", counted(Folder.remove))
        try:
            compact(ledger)
            return False
        except Killed:
            pass
    Lock(ledger.folder).release()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_every_step_no_row_is_lost_or_read_twice(again, tmp_path, monkeypatch):
    actions = 0
    while True:
        ledger = fill_ledger(tmp_path / str(actions), TRIALS[:5])
        if again:  # a merged file is merged once more
            compact(ledger)
            ledger.write("e2-later", 1, attempt())
        before = read_everything(ledger)
        killed = compact_killed_at(ledger, monkeypatch, actions)
        assert read_everything(ledger) == before
        ledger.write("e3-after", 1, attempt())  # the study goes on
        before = read_everything(ledger)
        compact(ledger)
        assert read_everything(ledger) == before
        assert count_files(ledger) == {"trials": 1, "images": 1}
        assert len(list((tmp_path / str(actions) / "study" / "trials").iterdir())) == 1
        if not killed:
            break
        actions += 1
    assert actions >= 8


def test_reading_meanwhile_gives_the_same_answer(tmp_path):
    """Ledgers are compacted while a thread reads them all: its answer never changes."""
    ledgers = [fill_ledger(tmp_path / str(k)) for k in range(5)]
    before, wrong, end = read_everything(ledgers[0]), [], threading.Event()

    def read():
        while not end.is_set():
            wrong.extend(found for ledger in ledgers if (found := read_everything(ledger)) != before)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for ledger in ledgers:
            compact(ledger)
    finally:
        end.set()
        reader.join()
    assert wrong == []


@pytest.mark.slow
def test_reading_between_any_two_steps_gives_the_same_answer(tmp_path, monkeypatch):
    """The reader lists the files just before they are merged, at each of its own steps."""
    for step in range(8):
        ledger = fill_ledger(tmp_path / str(step))
        before, calls, names = read_everything(ledger), 0, TableFiles.attempt_names

        def compacting(self, table, step=step, names=names, ledger=ledger):
            nonlocal calls
            found, calls = names(self, table), calls + 1
            if calls == step + 1:
                monkeypatch.setattr(TableFiles, "attempt_names", names)
                compact(ledger)
            return found

        for table in ("trials", "images"):
            calls = 0
            with monkeypatch.context() as patch:
                patch.setattr(TableFiles, "attempt_names", compacting)
                rows = ledger.read(table).to_pylist()
            assert sorted(map(repr, (dict(sorted(row.items())) for row in rows))) == before[table]


def test_a_damaged_file_is_named_and_nothing_is_merged(tmp_path):
    ledger = fill_ledger(tmp_path)
    path = tmp_path / "study" / "images" / f"{TRIALS[1]}-1.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"e1-x-s0-001-1.parquet is damaged .* `diffseg run` sets it aside"):
        compact(ledger)
    assert len(ledger.files.counted_names("trials")) == 15
    assert ledger.set_aside_damaged() == [str(path)]
    compact(ledger)
    assert TRIALS[1] not in ledger.last_attempts()


@pytest.mark.parametrize("table", ["trials", "images"])
def test_a_damaged_merged_file_is_set_aside_with_its_attempts(table, tmp_path):
    ledger = fill_ledger(tmp_path)
    compact(ledger)
    ledger.write("e2-later", 1, attempt())
    (name,) = (name for name in ledger.files.counted_names(table) if is_merged(name))
    path = tmp_path / "study" / table / name
    path.write_bytes(path.read_bytes()[:-10])
    assert {row["trial"] for row in ledger.read(table).to_pylist()} == {"e2-later"}
    ledger.set_aside_damaged()
    assert ledger.last_attempts() == {"e2-later": 1}


def test_a_running_study_is_refused(tmp_path):
    ledger = fill_ledger(tmp_path)
    lock = Lock(ledger.folder)
    lock.acquire()
    with pytest.raises(UserError, match="is being run"):
        compact(ledger)
    lock.release()
