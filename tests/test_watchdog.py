"""A trial that hangs is ended, and says where it hung."""

import threading
import time
from types import SimpleNamespace

from studies.engine.watchdog import EXIT_STATUS, Watchdog


def hanging(ended):
    ended.wait(10)


def test_a_trial_that_hangs_ends_with_its_stack_in_the_log(tmp_path):
    ended, statuses = threading.Event(), []

    def end(status):
        statuses.append(status)
        ended.set()

    with Watchdog(tmp_path / "log.txt", least=0.2, end=end) as watchdog:
        look = watchdog.with_heartbeat(lambda: False)
        assert not look()
        hanging(ended)
    assert statuses == [EXIT_STATUS]
    assert "in hanging" in (tmp_path / "log.txt").read_text()


def test_before_the_first_step_and_at_its_own_pace_it_may_take_its_time(tmp_path, monkeypatch):
    """By a clock of our own, which the watch reads every few milliseconds."""
    statuses, now = [], [100.0]
    monkeypatch.setattr("studies.engine.watchdog.time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds
        time.sleep(0.05)

    with Watchdog(tmp_path / "log.txt", least=0.1, end=statuses.append) as watchdog:
        wait(30)  # reading data
        look = watchdog.with_heartbeat(lambda: True)
        assert look()
        wait(0.05)
        assert look()
        wait(0.3)  # less than twenty times that
        look()
    assert not statuses
    assert not (tmp_path / "log.txt").exists()
