"""The Ray of a session: its place, its path, and those that do not come."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from finished import STUDY

from diffseg.errors import MachineryError, UserError
from studies.engine import connection, ray_folder
from studies.engine.connection import connect, summarise
from studies.engine.environment import resolve_address
from studies.engine.signals import Signals


@pytest.fixture
def no_ray_yet(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", "host:1", None),
        ("local", None, None),
        (None, "host:1", "host:1"),
        ("other:2", "host:1", "other:2"),
        ("auto", None, "auto"),
    ],
)
def test_the_address_is_the_options_or_else_the_environments(given, variable, address, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert resolve_address(given) == address


@pytest.fixture
def deaf():
    """The address of a port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


ADDRESSES = ["foo", "foo:bar", ":", "%%%", "http://127.0.0.1:8265", "127.0.0.1:1", "127.0.0.1:99999", "[::1]:1"]
ADDRESSES += [
    "ray://127.0.0.1:1",
    "ray://",
    "a host:6379",
    "127.0.0.1:6379:6379",
    "ümlaut.invalid:1",
    "x" * 300 + ":1",
    "\0:1",
]


@pytest.mark.parametrize("address", [*ADDRESSES, "deaf"])
def test_an_address_without_a_cluster_is_one_sentence(address, deaf, no_ray_yet, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER", 0.5)
    with (
        pytest.raises(UserError, match="no Ray cluster at") as found,
        connect(deaf if address == "deaf" else address),
    ):
        pass
    assert "--address HOST:PORT" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Exception("The current node timed out during startup. This could happen because ..."), "too busy"),
        (ValueError("The object store memory is too small.\nGive more."), "object store memory is too small"),
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_ray_that_does_not_start_is_one_sentence_that_names_its_logs(error, words, no_ray_yet, monkeypatch, tmp_path):
    def init(**settings):
        assert settings["address"] == "local"
        raise error

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(dir="/tmp"))
    with pytest.raises(MachineryError, match=words) as found, connect(None):
        pass
    assert "\n" not in str(found.value)
    (folder,) = Path(os.environ["RAY_TMPDIR"]).iterdir()  # it stays, for its logs
    assert f"{folder}/session_latest/logs" in str(found.value)


def test_a_terminated_start_is_an_interrupted_one(no_ray_yet, monkeypatch):
    """Ray sets a handler of SIGTERM of its own while it starts, which ends the program."""

    def init(**settings):
        ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    import ray

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(KeyboardInterrupt), Signals(), connect(None):
        pass


def test_a_terminated_session_asks_its_trials_to_stop(no_ray_yet, monkeypatch):
    """Ray's C++ sets a handler of SIGTERM that Python does not know of."""
    asked, ignored = threading.Event(), ctypes.c_void_p(1)  # SIG_IGN
    monkeypatch.setattr("ray.init", lambda **settings: ctypes.CDLL(None).signal(signal.SIGTERM, ignored))
    with Signals() as signals, connect(None):
        signals.stop_by(asked.set)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(10)


class TestPlaces:
    def test_the_folder_is_short_and_goes_with_its_ray(self, no_ray_yet, monkeypatch):
        found = []
        monkeypatch.setattr("ray.init", lambda **settings: found.append(Path(settings["_temp_dir"])))
        with connect(None) as logs:
            assert found[0].is_dir()
            assert logs.startswith(str(found[0]))
        assert not found[0].exists()
        assert len(str(found[0]) + ray_folder.SOCKET) <= ray_folder.PATH_LIMIT

    @pytest.mark.parametrize("length", [60, 200])
    def test_a_long_temporary_folder_is_not_used(self, length, monkeypatch, tmp_path):
        long = tmp_path / ("x" * length)
        long.mkdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        folder = ray_folder.make_folder()
        assert folder.parent == Path("/tmp")
        folder.joinpath("lock").unlink()
        folder.rmdir()

    @pytest.mark.parametrize("place", ["/nowhere", "x" * 10, "/proc", "/" + "x" * 100])
    def test_without_a_place_it_is_one_sentence(self, place, monkeypatch):
        monkeypatch.setenv("RAY_TMPDIR", place)
        with pytest.raises(UserError, match="RAY_TMPDIR has to name a folder that can be written"):
            ray_folder.make_folder()

    @pytest.mark.parametrize(
        ("age", "locked", "mine", "named", "stays"),
        [
            (3600, False, True, True, False),
            (3600, True, True, True, True),  # in use
            (1, False, True, True, True),  # about to be locked
            (3600, False, False, True, True),  # another user's
            (3600, False, True, False, True),  # of no session
        ],
    )
    def test_what_a_killed_session_left_is_removed(self, age, locked, mine, named, stays, monkeypatch, tmp_path):
        folder = tmp_path / (f"{ray_folder.PREFIX}abcdefgh" if named else "important")
        (folder / "session_1").mkdir(parents=True)
        (folder / "lock").touch()
        (folder / "session_1/log").touch()
        os.utime(folder, (time.time() - age,) * 2)
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user if mine else user + 1)
        lock = FileLock(folder / "lock")
        if locked:
            lock.acquire()
        ray_folder.remove_abandoned(tmp_path)
        assert folder.exists() == stays
        assert not stays or (folder / "session_1/log").exists()
        lock.release()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError"),
        ("one sentence.\nand more", "one sentence"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 3\n", "KeyError: 3"),
        (
            "\x1b[36mray::run_driver()\x1b[39m (pid=1)\n  File x\nModuleNotFoundError: No module named 'studies'",
            "ModuleNotFoundError: No module named 'studies'",
        ),
    ],
)
def test_of_an_error_one_line_is_shown(text, line):
    assert summarise(ValueError(text)) == line


class TestSignals:
    def test_the_first_one_interrupts_a_start(self):
        with pytest.raises(KeyboardInterrupt), Signals():
            signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_one_asks_trials_and_the_second_ends_at_once(self, number, monkeypatch, capsys):
        asked, ended = threading.Event(), []
        monkeypatch.setattr(os, "_exit", ended.append)
        with Signals() as signals:
            signals.stop_by(asked.set)
            signal.raise_signal(number)
            assert asked.wait(10)
            assert not ended
            signal.raise_signal(number)
        assert ended == [130]
        assert capsys.readouterr().err == "diffseg: stopped at once\n"

    def test_one_that_was_lost_during_the_start_is_remembered(self):
        """Python ignores what is raised where an object is freed."""

        class Freed:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        with Signals() as signals:
            Freed()
            with pytest.raises(KeyboardInterrupt):
                signals.stop_by(lambda: None)


FOREIGN = [
    *("numpy.py", "ray.py", "torch.py", "click.py", "yaml.py", "json.py", "logging.py", "sitecustomize.py"),
    *("studies/__init__.py", "diffseg/__init__.py"),
]


@pytest.fixture
def trap(tmp_path):
    """A folder of modules that leave the file `marker` when they are imported."""
    folder = tmp_path / "trap"
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            f"open({str(tmp_path / 'marker')!r}, 'a').write(__file__)\nraise SystemExit('foreign code')\n"
        )
    (tmp_path / "small.toml").write_text(STUDY.replace('["e1", "e2", "e3"]', '["e1"]'))
    return folder


PROGRAM = Path(sys.executable).with_name("diffseg")
CALLS = {"the program": [str(PROGRAM)], "python -m": [sys.executable, "-m", "studies"]}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("arguments", [["--help"], ["status", "nothing"], ["plan", "../small.toml"]])
def test_nothing_is_imported_from_the_current_folder(call, arguments, trap, tmp_path):
    if call == "python -m":  # which takes a package that is run from the current folder, before it is ours
        (trap / "studies/__init__.py").unlink()
        (trap / "studies").rmdir()
    elif not PROGRAM.exists():
        pytest.skip("it is not installed")
    result = subprocess.run([*CALLS[call], *arguments], cwd=trap, capture_output=True, text=True)
    assert result.returncode == (2 if "nothing" in arguments else 0), result.stderr
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_session_in_hostile_surroundings(call, trap, tmp_path):
    """Foreign modules, another Ray on the machine, RAY_ADDRESS=local and a temporary folder of a long name, all at once."""
    if call == "python -m":
        (trap / "studies/__init__.py").unlink()
        (trap / "studies").rmdir()
    long = tmp_path / ("x" * 120)
    long.mkdir()
    env = os.environ | {"TMPDIR": str(long), "RAY_ADDRESS": "local"}
    code = (
        "import ray; ray.init(address='local', include_dashboard=False, num_cpus=1); print('up', flush=True); input()"
    )
    alone = {"RAY_AUTH_MODE": "disabled"}  # else it leaves a token in the user's folder
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", code], env=os.environ | alone, **pipes)
    try:
        while other.stdout.readline() not in ("up\n", ""):
            pass
        line = [*CALLS[call], "run", "../small.toml", "--store", str(tmp_path / "store"), "--no-report"]
        session = subprocess.Popen(line, cwd=trap, env=env, **pipes)
        _, said = session.communicate()
    finally:
        other.communicate("\n")
    assert session.returncode == 0, said
    assert not (tmp_path / "marker").exists()
    left = [
        path for pattern in ("diffseg-*", "ray") for path in Path("/tmp").glob(f"{pattern}/session_*_{session.pid}")
    ]
    assert left == []
    assert list(long.glob("**/session_*")) == []
