"""The connection to Ray: addresses, failed starts, signals, the temporary folder, and what workers import."""

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
def test_the_option_address_precedes_the_environment(given, variable, address, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert resolve_address(given) == address


@pytest.fixture
def silent():
    """The address of a port that takes connections and never answers."""
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


@pytest.mark.parametrize("address", [*ADDRESSES, "silent"])
def test_an_address_without_a_cluster_is_refused_in_one_sentence(address, silent, no_ray_yet, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER", 0.5)
    with (
        pytest.raises(UserError, match="no Ray cluster at") as found,
        connect(silent if address == "silent" else address),
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
def test_a_failed_start_is_reported_in_one_sentence_that_names_the_logs(
    error, words, no_ray_yet, monkeypatch, tmp_path
):
    def init(**settings):
        assert settings["address"] == "local"
        raise error

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(dir="/tmp"))
    with pytest.raises(MachineryError, match=words) as found, connect(None):
        pass
    assert "\n" not in str(found.value)
    (folder,) = Path(os.environ["RAY_TMPDIR"]).iterdir()  # kept for its logs
    assert f"{folder}/session_latest/logs" in str(found.value)


def test_sigterm_interrupts_the_start_of_ray(no_ray_yet, monkeypatch):
    """While Ray starts, it sets its own handler of SIGTERM, which ends the program."""

    def init(**settings):
        ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    import ray

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(KeyboardInterrupt), Signals(), connect(None):
        pass


def test_sigterm_requests_a_stop_after_ray_has_started(no_ray_yet, monkeypatch):
    """Ray's C++ sets a handler of SIGTERM behind Python's back."""
    requested, ignored = threading.Event(), ctypes.c_void_p(1)  # SIG_IGN
    monkeypatch.setattr("ray.init", lambda **settings: ctypes.CDLL(None).signal(signal.SIGTERM, ignored))
    with Signals() as signals, connect(None):
        signals.stop_by(requested.set)
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested.wait(10)


class TestFolder:
    def test_it_has_a_short_path_and_is_removed_with_its_ray(self, no_ray_yet, monkeypatch):
        found = []
        monkeypatch.setattr("ray.init", lambda **settings: found.append(Path(settings["_temp_dir"])))
        with connect(None) as logs:
            assert found[0].is_dir()
            assert logs.startswith(str(found[0]))
        assert not found[0].exists()
        assert len(str(found[0]) + ray_folder.SOCKET) <= ray_folder.PATH_LIMIT

    @pytest.mark.parametrize("length", [60, 200])
    def test_a_place_with_a_long_path_is_not_used(self, length, monkeypatch, tmp_path):
        long = tmp_path / ("x" * length)
        long.mkdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        folder = ray_folder.make_folder()
        assert folder.parent == Path("/tmp")
        folder.joinpath("lock").unlink()
        folder.rmdir()

    @pytest.mark.parametrize("place", ["/nowhere", "x" * 10, "/proc", "/" + "x" * 100])
    def test_it_is_refused_in_one_sentence_if_there_is_no_place(self, place, monkeypatch):
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
            (3600, False, True, False, True),  # made by no session
        ],
    )
    def test_folders_of_killed_sessions_are_removed(self, age, locked, mine, named, stays, monkeypatch, tmp_path):
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
def test_errors_are_summarised_in_one_line(text, line):
    assert summarise(ValueError(text)) == line


class TestSignals:
    def test_the_first_one_interrupts_the_start(self):
        with pytest.raises(KeyboardInterrupt), Signals():
            signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_one_requests_a_stop_and_the_second_one_ends_the_process(self, number, monkeypatch, capsys):
        requested, ended = threading.Event(), []
        monkeypatch.setattr(os, "_exit", ended.append)
        with Signals() as signals:
            signals.stop_by(requested.set)
            signal.raise_signal(number)
            assert requested.wait(10)
            assert not ended
            signal.raise_signal(number)
        assert ended == [130]
        assert capsys.readouterr().err == "diffseg: stopped at once\n"

    def test_an_interrupt_that_python_ignored_is_raised_again(self):
        """Python ignores exceptions where an object is freed."""

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


@pytest.mark.sampled(1)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("arguments", [["--help"], ["status", "nothing"], ["plan", "../small.toml"]])
def test_nothing_is_imported_from_the_current_folder(call, arguments, trap, tmp_path):
    if call == "python -m":  # Python itself takes the package to run from the current folder
        (trap / "studies/__init__.py").unlink()
        (trap / "studies").rmdir()
    elif not PROGRAM.exists():
        pytest.skip("it is not installed")
    result = subprocess.run([*CALLS[call], *arguments], cwd=trap, capture_output=True, text=True)
    assert result.returncode == (2 if "nothing" in arguments else 0), result.stderr
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_session_runs_among_foreign_modules_and_another_ray(call, trap, tmp_path):
    """All at once: foreign modules, another Ray on the machine, RAY_ADDRESS=local and a temporary folder with a long path."""
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
        _, output = session.communicate()
    finally:
        other.communicate("\n")
    assert session.returncode == 0, output
    assert not (tmp_path / "marker").exists()
    left = [
        path for pattern in ("diffseg-*", "ray") for path in Path("/tmp").glob(f"{pattern}/session_*_{session.pid}")
    ]
    assert left == []
    assert list(long.glob("**/session_*")) == []
