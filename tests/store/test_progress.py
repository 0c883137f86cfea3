"""The progress that a trial reports while it runs."""

import pytest

from studies.store import progress
from studies.store.folder import Folder
from studies.store.progress import ProgressWriter, read_progress


@pytest.fixture
def folder(tmp_path):
    return Folder.open(str(tmp_path))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_is_that_since_the_last_write_and_writes_are_rare(clock, folder):
    writer = ProgressWriter(folder, steps=100)
    assert read_progress(folder).phase == "starting"
    clock[0] += 2
    writer(10)
    assert (read_progress(folder).rate, read_progress(folder).share, read_progress(folder).phase) == (
        5.0,
        0.1,
        "training",
    )
    clock[0] += 0.5
    writer(11)
    assert read_progress(folder).step == 10
    writer(100)
    assert read_progress(folder).phase == "evaluating"
    folder.remove(progress.NAME)
    assert read_progress(folder) is None


def test_a_resumed_training_may_be_behind_the_last_report(clock, folder):
    first = ProgressWriter(folder, steps=100)
    clock[0] += 2
    first(50)
    resumed = ProgressWriter(folder, steps=100)
    assert read_progress(folder).step == 50
    clock[0] += 2
    resumed(40)  # from the checkpoint
    assert (read_progress(folder).step, read_progress(folder).rate) == (40, 0.0)
    clock[0] += 2
    resumed(46)
    assert read_progress(folder).rate == 3.0


def test_decoding_is_reported_in_images(clock, folder):
    writer = ProgressWriter(folder, steps=10)
    clock[0] += 1
    writer.report_reading(1234, 5000)
    assert read_progress(folder).phase == "reading 1,234 of 5,000 images"


def test_an_unreadable_file_gives_no_progress(tmp_path, folder):
    (tmp_path / "progress.json").write_text('{"step": 1')
    assert read_progress(folder) is None
