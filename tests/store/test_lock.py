"""All kinds of locks keep one promise: one session per study, which readers see, and no lock of a dead holder stays."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from test_folder import bucket, uri  # noqa: F401

from diffseg.errors import UserError
from studies.store import lock as module
from studies.store.folder import Folder
from studies.store.lock import NAME, Lock

KINDS = ["flock", "lease", "uri"]


def without_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=KINDS)
def folder(request, tmp_path, monkeypatch) -> Folder:
    """The folder of a study in a store of each kind."""
    monkeypatch.setattr(module, "SETTLE", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    if request.param == "lease":
        without_flock(monkeypatch)
    place = request.getfixturevalue("uri") if request.param == "uri" else str(tmp_path)
    return Folder.open(place).at("study")


@pytest.fixture
def local(tmp_path, monkeypatch) -> Folder:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    return Folder.open(str(tmp_path)).at("study")


def test_one_session_at_a_time(folder):
    one, other = Lock(folder), Lock(folder)
    assert not other.is_held()
    one.acquire()
    assert one.is_held()
    assert other.is_held()
    with pytest.raises(UserError, match=f"study study is being run by process {os.getpid()} on .*diffseg status"):
        other.acquire()
    assert one.is_held()
    one.release()
    one.release()
    assert not other.is_held()
    other.acquire()
    other.release()
    assert not folder.exists(NAME)


def test_one_of_several_simultaneous_sessions_gets_the_lock(folder, monkeypatch):
    monkeypatch.setattr(module, "SETTLE", 0.5)
    locks, got, start = [Lock(folder) for _ in range(3)], [], threading.Barrier(3)
    if not folder.local:  # all look before one has written
        monkeypatch.setattr(Lock, "is_held", lambda self: start.wait() and False)

    def acquire(one):
        try:
            one.acquire()
            got.append(one)
        except UserError:
            pass

    threads = [threading.Thread(target=acquire, args=(one,)) for one in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()


GARBLED = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "cut": b"{",
    "bytes": b"\xff",
    "types": b'{"pid": "x", "started": 3}',
}


@pytest.mark.parametrize("record", [*GARBLED.values(), b"[" * 100_000], ids=[*GARBLED, "deep"])
def test_a_garbled_record_ends_in_no_traceback(folder, record):
    folder.write(NAME, record)
    lock = Lock(folder)
    assert lock.is_held()  # fresh, and of nobody that this host knows
    if folder.local:
        lock.acquire()
        lock.release()
    else:
        with pytest.raises(UserError, match=r"process (unknown|x) on another host"):
            lock.acquire()


HOLDER = """
import errno, fcntl, sys, time
if sys.argv[2] == "lease":
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = refuse
from studies.store.folder import Folder
from studies.store.lock import Lock
Lock(Folder.open(sys.argv[1]).at("study")).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_the_lock_of_a_killed_session_ends_with_it(kind, local, tmp_path, monkeypatch):
    if kind == "lease":
        without_flock(monkeypatch)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path), kind]
    holder = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        lock = Lock(local)
        assert lock.is_held()
        with pytest.raises(UserError, match=f"process {holder.pid}"):
            lock.acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not lock.is_held()
    lock.acquire()
    lock.release()


def test_the_lock_of_a_dead_session_on_another_host_ends(folder, monkeypatch):
    folder.write(NAME, json.dumps({"pid": 1, "host": "gone", "started": "then"}).encode())
    lock = Lock(folder)
    assert lock.is_held()
    monkeypatch.setattr(module, "FRESH", -1.0 if not folder.local else 0.3)
    monkeypatch.setattr(module, "BEAT", 0.1)
    age = Folder.age
    monkeypatch.setattr(Folder, "age", lambda self, name: (found := age(self, name)) and found + 100)
    assert not lock.is_held()
    monkeypatch.setattr(Folder, "age", age)
    lock.acquire()
    lock.release()


def test_a_stale_lease_of_another_host_is_taken_over(local, tmp_path, monkeypatch):
    without_flock(monkeypatch)
    monkeypatch.setattr(module, "FRESH", 0.5)
    monkeypatch.setattr(module, "BEAT", 0.1)
    one = Lock(local)
    one.acquire()
    marker = tmp_path / "study" / "session.lease"
    content = marker.read_text()
    one.release()
    from filelock._identity import host_name

    marker.write_text(content.replace(host_name(), "another-host"))
    os.utime(marker, (1e9, 1e9))
    lock = Lock(local)
    lock.acquire()
    lock.release()


def test_readers_write_nothing(local, tmp_path):
    assert not Lock(local).is_held()
    assert not any(tmp_path.iterdir())


def test_a_store_without_room_is_one_sentence_and_leaves_no_lock(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            "studies.store.folder.Path.replace" if folder.local else "studies.store.folder.tempfile.TemporaryFile", full
        )
        with pytest.raises(UserError, match="disk or quota is full"):
            Lock(folder).acquire()
    lock = Lock(folder)
    lock.acquire()
    lock.release()
