"""Stores in folders and behind URIs: the same promises of both; the latter against an S3 server on loopback."""

import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_data import folder as folder_data
from test_session import RESULTS, study_of

from diffseg.errors import UserError
from studies.commands.program import main
from studies.engine.files import STOP
from studies.engine.preparation import NotShared
from studies.engine.request import TrialRequest
from studies.engine.session import run
from studies.engine.worker import run_trial
from studies.store import copies, outages
from studies.store.compaction import compact
from studies.store.copies import LocalCopy
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.lock import Lock
from studies.store.outages import retry_outages
from studies.store.places import fetch_root
from studies.store.state import trial_states


@pytest.fixture(scope="module")
def bucket():
    """The URI of a new bucket, as what follows the scheme and what follows the prefix."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it tells of every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="store")
        yield lambda prefix: f"s3://store/{prefix}?scheme=http&endpoint_override={host}:{port}"
    server.stop()


@pytest.fixture
def uri(bucket, request):
    return bucket(request.node.name.replace("[", "-").replace("]", ""))


@pytest.fixture(params=["folder", "uri"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("uri")


class TestFolder:
    def test_files_are_written_read_and_removed(self, store):
        one = Folder.open(store).at("study")
        assert one.read("a/b.txt") is None
        assert one.age("a/b.txt") is None
        one.remove("a/b.txt")
        one.write("a/b.txt", b"one")
        one.write("a/b.txt", b"two!")
        assert one.read("a/b.txt") == one.at("a").read("b.txt") == b"two!"
        assert one.exists("a/b.txt")
        assert not one.exists("a")
        assert one.files() == {"a/b.txt": 4}
        assert -5 < one.age("a/b.txt") < 60
        one.remove("a/b.txt")
        assert one.files() == {}
        one.write("a/c.txt", b"")
        one.clear()
        one.clear()
        assert one.files() == {}

    def test_a_uri_with_a_password_is_refused_without_it(self):
        with pytest.raises(UserError, match="holds a password") as error:
            Folder.open("s3://key:very-secret@bucket/prefix")
        assert "very-secret" not in str(error.value)

    def test_an_unusable_store_is_named(self):
        with pytest.raises(UserError, match="the store ftp://there cannot be used"):
            Ledger("ftp://there", "study")


class TestLocalCopy:
    def test_a_node_continues_from_the_files_that_another_has_pushed(self, uri, tmp_path, monkeypatch):
        there = Folder.open(uri).at("work")
        for node, old, new in (("one", None, "a"), ("two", "a", "b"), ("one", "b", "c")):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / node))
            copy = LocalCopy(there)
            path = copy.fetch()
            assert path.is_relative_to(tmp_path / node)
            if old:
                assert (path / f"{old}.pt").read_text() == old
                (path / f"{old}.pt").unlink()
            (path / f"{new}.pt").write_text(new)
            (path / "log.txt").write_text(f"log of {new}")
            (path / "half.pt.tmp").write_text("half")
            copy.push()
            assert there.files() == {f"{new}.pt": 1, "log.txt": 8}
        assert there.read("log.txt") == b"log of c"

    def test_a_local_folder_is_not_copied(self, tmp_path):
        copy = LocalCopy(Folder.open(str(tmp_path / "there")))
        assert copy.fetch() == tmp_path / "there"
        copy.push()

    def test_a_push_in_the_background_survives_an_outage(self, uri, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(copies, "PUSH_EVERY", 0.0)
        copy, there = LocalCopy(Folder.open(uri)), threading.Event()
        (copy.fetch() / "a.pt").write_text("a")

        def away(*_):
            there.set()
            raise OSError("no route to host")

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", away)
            copy.push_in_background()
            assert there.wait(10)
        while copy._lock.locked():
            pass
        copy.push()
        assert Folder.open(uri).read("a.pt") == b"a"


def test_an_outage_is_waited_for(monkeypatch):
    naps, tries = [], []
    monkeypatch.setattr(outages.time, "sleep", naps.append)

    def action():
        tries.append(1)
        if len(tries) < 4:
            raise OSError("away")

    retry_outages(action)
    assert naps == [1, 2, 4]
    tries.clear()
    with pytest.raises(OSError, match="away"):
        retry_outages(action, patience=0.5)


def test_data_behind_a_uri_are_fetched_once(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="holds no files, as seen from"):
        fetch_root(uri)
    folder_data(tmp_path / "data")
    files = {
        str(file.relative_to(tmp_path / "data")): file for file in (tmp_path / "data").rglob("*") if file.is_file()
    }
    for name, file in files.items():
        Folder.open(uri).write(name, file.read_bytes())
    path = fetch_root(uri)
    stamps = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert {str(file.relative_to(path)) for file in stamps} == set(files)
    assert fetch_root(uri) == path
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}  # so that the decoded data set stays


def request_of(store, config, trial="t", attempt=1):
    return TrialRequest(
        store=store, study="study", trial=trial, attempt=attempt, config=config.canonical(), root=None, cpus=1, gpus=0,
        commit=None, dirty=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_stopped_trial_resumes_on_another_node(tiny, uri, tmp_path, monkeypatch):
    config = tiny(experiment="e2", training__checkpoint_every=2)
    ledger = Ledger(uri, "study")
    ledger.define({})
    request = request_of(uri, config)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    ledger.folder.write(STOP, b"")
    assert run_trial(request) == "stopped"
    assert [name for name in request.folder.files() if name.endswith(".pt")]
    ledger.folder.remove(STOP)
    shutil.rmtree(tmp_path / "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert run_trial(request) == "complete"
    (row,) = ledger.last_rows()
    assert [name for name in request.folder.files() if name.endswith(".pt")] == [row["checkpoint"]]
    assert b"stopped at step" in request.folder.read("log.txt")
    whole = Ledger(str(tmp_path / "whole"), "study")
    whole.define({})
    assert run_trial(request_of(str(tmp_path / "whole"), config)) == "complete"
    (other,) = whole.last_rows()
    assert {name: row[name] for name in RESULTS} == {name: other[name] for name in RESULTS}


def test_a_store_that_a_node_does_not_share_is_named(tiny, tmp_path):
    with pytest.raises(NotShared, match="all nodes have to share the store"):
        run_trial(request_of(str(tmp_path / "elsewhere"), tiny(experiment="e1")))


@pytest.mark.slow
def test_a_ledger_behind_a_uri_is_compacted_and_its_damaged_files_are_set_aside(tiny, uri):
    ledger = Ledger(uri, "study")
    ledger.define({})
    config = tiny(experiment="e1")
    for number in range(3):
        run_trial(replace(request_of(uri, config), trial=f"e1-{number}"))
    assert compact(ledger) == 3
    assert len(ledger.files.counted_names("trials")) == 1
    run_trial(replace(request_of(uri, config), trial="e1-3"))
    ledger.folder.write("images/e1-3-1.parquet", b"PAR1 damaged")
    assert len(ledger.set_aside_damaged()) == 1
    assert sorted(row["trial"] for row in ledger.last_rows()) == [f"e1-{number}" for number in range(3)]
    assert ledger.folder.exists("damaged/images/e1-3-1.parquet")


@pytest.mark.slow
def test_a_study_runs_through_ray_behind_a_uri(tiny, uri, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study = study_of([tiny(experiment="e1"), tiny(experiment="e3")])
    ledger = Ledger(uri, "study")
    assert run(study, ledger, quiet=True)
    assert [state.status for state in trial_states(study, ledger)] == ["complete"] * 2
    assert not any(name.startswith("scratch/") for name in ledger.folder.files())
    assert not Lock(ledger.folder).is_held()
    assert Path(next(iter(ledger.last_rows()))["log"]).name == "log.txt"


@pytest.mark.sampled(1)
def test_a_study_is_cleaned_and_deleted(tiny, store):
    """The networks of two trials; one of them has the checkpoints of a session that was killed."""
    ledger = Ledger(store, "study")
    ledger.define({"trials": {}})
    for seed in (0, 1):
        assert run_trial(request_of(store, tiny(experiment="e1", seed=seed), trial=f"t{seed}")) == "complete"
    name = next(name for name in ledger.folder.at("work/t0").files() if name.endswith(".pt"))
    ledger.folder.write("work/t0/step-00000003-0123456789abcdef.pt", b"older")
    for options in ([], ["--keep", "best:1"]):
        before = {name for name in ledger.folder.files() if name.endswith(".parquet")}
        result = CliRunner().invoke(main, ["clean", "study", "--store", store, *options])
        assert result.exit_code == 0, result.output
        assert {name for name in ledger.folder.files() if name.endswith(".parquet")} == before
        left = [path for path in ledger.folder.files() if path.endswith(".pt")]
        assert len(left) == (1 if options else 2)
        if not options:
            assert f"work/t0/{name}" in left
    assert CliRunner().invoke(main, ["delete", "study", "--store", store, "--yes"]).exit_code == 0
    assert ledger.folder.files() == {}
    assert CliRunner().invoke(main, ["delete", "study", "--store", store, "--yes"]).exit_code == 2
