"""Proposals and rungs are read once, merged, and never lost, while others write and read."""

import os
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from studies.store import search_records
from studies.store.compaction import compact, compact_search_records
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.search_records import compact_records
from studies.store.validity import is_merged


def rung(number: int, step: int = 1, value: float = 0.5, search: str = "a") -> dict:
    own = {"search": search, "step": step, "trial": f"t{number:03}", "metric": "iou"}
    return own | {"image": None, "group": None, "value": value, "place": 0}


def fill(ledger: Ledger, count: int = 6) -> Ledger:
    for number in range(count):
        ledger.record("rungs", [rung(number)])
    return ledger


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that are read from here on."""
    names, read = [], search_records.read_records
    monkeypatch.setattr(search_records, "read_records", lambda *where: names.append(where[-1]) or read(*where))
    return names


def test_each_file_is_read_once(ledger, opened):
    fill(ledger, 3)
    for _ in range(3):
        assert ledger.records("rungs") == [rung(0), rung(1), rung(2)]
    assert sorted(opened) == ["a-1-t000.parquet", "a-1-t001.parquet", "a-1-t002.parquet"]
    opened.clear()
    ledger.record("rungs", [rung(3)])
    assert len(ledger.records("rungs")) == 4
    assert opened == ["a-1-t003.parquet"]


def test_records_of_other_sessions_and_of_one_search_are_found(ledger):
    assert ledger.records("rungs") == []
    other = Ledger(ledger.store, ledger.study)
    other.record("rungs", [rung(0, search="a"), rung(0, search="a") | {"metric": "ece"}])
    other.record("rungs", [rung(0, search="a-b")])
    assert len(ledger.records("rungs")) == 3
    assert [row["metric"] for row in ledger.records("rungs", "a")] == ["iou", "ece"]
    assert ledger.records("rungs", "a-b") == [rung(0, search="a-b")]


def test_compaction_merges_records_and_a_reader_opens_the_merged_file_alone(ledger, opened):
    fill(ledger)
    before = ledger.records("rungs")
    compact(ledger)
    (name,) = ledger.files.parquet_names("rungs")
    assert is_merged(name)
    opened.clear()
    assert ledger.records("rungs") == before == Ledger(ledger.store, ledger.study).records("rungs")
    assert opened == [name] * 2
    ledger.record("rungs", [rung(9)])
    assert ledger.records("rungs") == [*before, rung(9)]
    compact(ledger)
    assert ledger.records("rungs") == [*before, rung(9)]
    assert len(ledger.files.parquet_names("rungs")) == 1


def test_few_files_are_left_alone(ledger):
    fill(ledger, 3)
    assert compact_records(ledger.files, "rungs", at_least=4) == 0
    assert compact_records(ledger.files, "rungs", at_least=3) == 3
    assert compact_records(ledger.files, "rungs") == 0


def test_a_record_that_is_written_anew_overrides_the_merged_one(ledger):
    fill(ledger)
    compact(ledger)
    ledger.record("rungs", [rung(2, value=0.9)])
    for _ in range(2):
        assert [row["value"] for row in ledger.records("rungs")] == [0.5, 0.5, 0.9, 0.5, 0.5, 0.5]
        compact(ledger)


def test_damaged_files_are_skipped_not_merged_and_set_aside(ledger, caplog):
    fill(ledger)
    path = Path(ledger.root) / "rungs" / "a-1-t003.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert len(ledger.records("rungs")) == 5
    compact(ledger)
    assert path.exists()
    assert len(ledger.records("rungs")) == 5
    assert caplog.text.count("a-1-t003.parquet is skipped") == 1
    assert ledger.set_aside_damaged() == [str(path)]
    (merged,) = ledger.files.parquet_names("rungs")
    whole = (path.parent / merged).read_bytes()
    (path.parent / merged).write_bytes(whole[:-10])
    assert Ledger(ledger.store, ledger.study).records("rungs") == []
    assert ledger.set_aside_damaged() == [str(path.parent / merged)]
    assert ledger.records("rungs") == []


def test_a_damaged_file_that_is_written_anew_is_read(ledger):
    ledger.folder.write("rungs/a-1-t000.parquet", b"PAR1 not whole")
    assert ledger.records("rungs") == []
    ledger.record("rungs", [rung(0)])
    assert ledger.records("rungs") == [rung(0)]


class Killed(BaseException):
    """The process is gone. Not an Exception, so that nothing catches it and tidies up."""


def test_killed_at_every_step_no_record_is_lost_or_read_twice(tmp_path, monkeypatch):
    actions, killed = 0, True
    while killed:
        ledger = fill(Ledger(str(tmp_path / str(actions)), "study"), 3)
        compact_records(ledger.files, "rungs")
        fill(ledger, 5)
        before, left, killed = ledger.records("rungs"), actions, False

        def counted(act):
            def wrapper(*arguments, **more):
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return act(*arguments, **more)

            return wrapper

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted(Path.replace))
            patch.setattr(os, "fsync", counted(os.fsync))
            patch.setattr(pq, "write_table", counted(pq.write_table))
            patch.setattr(Folder, "remove", counted(Folder.remove))
            try:
                compact_records(ledger.files, "rungs")
            except Killed:
                killed = True
        for reader in (ledger, Ledger(ledger.store, ledger.study)):
            assert reader.records("rungs") == before
        compact_records(ledger.files, "rungs")
        assert Ledger(ledger.store, ledger.study).records("rungs") == before
        actions += 1
    assert actions >= 9


def test_reading_meanwhile_gives_the_same_answer(tmp_path):
    """Records are written and merged while a thread reads: each reading sees all that was written before it."""
    ledger, wrong, end, written = Ledger(str(tmp_path), "study"), [], threading.Event(), 0

    def read():
        kept = Ledger(ledger.store, ledger.study)
        while not end.is_set():
            least = written
            for reader in (kept, Ledger(ledger.store, ledger.study)):
                found = reader.records("rungs")
                if len(found) < least or len({row["trial"] for row in found}) != len(found):
                    wrong.append((least, len(found)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(120):
            ledger.record("rungs", [rung(number)])
            written = number + 1
            if number % 7 == 0:
                compact_records(ledger.files, "rungs")
    finally:
        end.set()
        reader.join()
    assert wrong == []


def search_for(ledger: Ledger, proposals: range) -> None:
    """Read and write records as a search and its trials do. Each trial is a process of its own, with two rungs."""
    for number in proposals:
        ledger.records("proposals", "a")
        ledger.records("rungs", "a")
        row = {"search": "a", "number": number, "seed": 0, "trial": f"t{number:03}", "source": "tpe", "settings": "{}"}
        ledger.record("proposals", [row])
        compact_search_records(ledger)
        for step in (100, 300):
            worker = Ledger(ledger.store, ledger.study)
            worker.record("rungs", [rung(number, step)])
            assert len(worker.records("rungs", "a")) == 2 * number + (1 if step == 100 else 2)


@pytest.mark.slow
def test_what_a_search_reads_grows_with_its_length_and_not_with_its_square(ledger, opened):
    """Before, a search of 300 proposals opened 224,000 files."""
    search_for(ledger, range(100))
    first = len(opened)
    search_for(ledger, range(100, 200))
    opened.clear()
    search_for(ledger, range(200, 300))
    assert len(opened) < 1.3 * first
    assert len(opened) < 6000
    assert len(ledger.records("proposals")) == 300
