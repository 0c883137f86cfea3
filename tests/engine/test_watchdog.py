"""The watchdog: a training that hangs is ended, and its log says where it hung."""

import threading
import time
from types import SimpleNamespace

from studies.engine.watchdog import EXIT_STATUS, Watchdog


def hang(ended):
    ended.wait(10)


def test_a_training_that_hangs_ends_with_its_stacks_in_the_log(tmp_path):
    ended, statuses = threading.Event(), []

    def end(status):
        statuses.append(status)
        ended.set()

    with Watchdog(tmp_path / "log.txt", least=0.2, end=end) as watchdog:
        beat = watchdog.with_heartbeat(lambda: False)
        assert not beat()
        hang(ended)
    assert statuses == [EXIT_STATUS]
    assert "in hang" in (tmp_path / "log.txt").read_text()


def test_pauses_before_the_first_heartbeat_and_of_the_usual_length_are_allowed(tmp_path, monkeypatch):
    """The watchdog reads a fake clock every few milliseconds."""
    statuses, now = [], [100.0]
    monkeypatch.setattr("studies.engine.watchdog.time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds
        time.sleep(0.05)

    with Watchdog(tmp_path / "log.txt", least=0.1, end=statuses.append) as watchdog:
        wait(30)  # reading data
        beat = watchdog.with_heartbeat(lambda: True)
        assert beat()
        wait(0.05)
        assert beat()
        wait(0.3)  # less than twenty times that
        beat()
    assert not statuses
    assert not (tmp_path / "log.txt").exists()
