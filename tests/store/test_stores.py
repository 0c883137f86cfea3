"""Stores that are damaged, changed by others, or out of reach: each is named in one sentence, and nothing is lost."""

import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken import (
    STUDY,
    TABLES,
    WRITTEN,
    Failing,
    build_ledger,
    check_one_sentence,
    copy_ledger,
    drop_column,
    invoke,
    quick_commands,
    read_all,
    rewrite,
    set_column,
)
from pyarrow.fs import LocalFileSystem, PyFileSystem

from diffseg.errors import DefinitionError, StoreError, UserError
from studies.commands.requests import StudyRequest, requested_study
from studies.definition.reading import read_study
from studies.definition.study import stored_study
from studies.store.compaction import compact
from studies.store.folder import Folder
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS
from studies.store.validity import STANDS_FOR


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Ledger:
    return build_ledger(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def ledger(sound, tmp_path) -> Ledger:
    return copy_ledger(sound, tmp_path / "store")


def some(ledger: Ledger, table: str) -> Path:
    """A file of a table; of those of trials, one that has rows in several tables."""
    return sorted((Path(ledger.root) / table).glob("*.parquet"))[0]


TREE = json.dumps(read_study(STUDY, {}, {}).definition())
DEFINITIONS = {
    "empty": b"",
    "blank": b" \n",
    "cut": TREE.encode()[:1000],
    "cut before its end": TREE.encode()[:-1],
    "zeros": b"\0" * 512,
    "no UTF-8": TREE.encode("utf-16"),
    "a list": b"[]",
    "text": b'"study"',
    "nothing": b"null",
    "a number": b"1e999",
    "not a number": b"NaN",
    "deep": b"[" * 100_000,
    "deep objects": b'{"trials": ' * 50_000,
    "deep in a trial": b'{"trials": {"a": {"b": ' + b"[" * 5000 + b"]" * 5000 + b"}}}",
    "a huge number": b'{"trials": ' + b"9" * 10_000 + b"}",
    "trials are a list": b'{"trials": []}',
    "trials are nothing": b'{"trials": null}',
    "a trial is text": b'{"trials": {"a": "b"}}',
    "a trial leads out": b'{"trials": {"../../a": {}}}',
    "roots are a list": b'{"roots": ["a"]}',
    "a root is a number": b'{"roots": {"a": 3}}',
    "a search is text": b'{"search": "tpe"}',
    "starts are text": b'{"starts": "a"}',
    "variants are numbers": b'{"variants": {"a": 3}}',
    "a command is a list": b'{"command": ["diffseg"]}',
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fault", DEFINITIONS)
def test_a_damaged_definition_is_one_sentence_and_written_anew(fault, ledger):
    path = Path(ledger.root) / "study.json"
    path.write_bytes(DEFINITIONS[fault])
    for line in (["status"], ["show", STUDY, "x"], ["best"], ["compare"], ["retry"], ["report"],
                 ["dashboard", "--tensorboard", "x"], ["predict", STUDY, "x", "y.png"]):  # fmt: skip
        arguments = [line[0], *(line[1:] if line[1:2] == [STUDY] else [STUDY, *line[1:]])]
        result = invoke(*arguments, "--store", ledger.store)
        check_one_sentence(result)
        assert (result.exit_code, "study.json cannot be used (" in result.output) == (2, True), (line, result.output)
        assert "`diffseg run` with the study's TOML file" in result.output
    assert path.read_bytes() == DEFINITIONS[fault]
    study, found = requested_study(StudyRequest(STUDY, ledger.store), extend=False)
    found.define(study.definition())
    assert stored_study(STUDY, ledger.definition()).requested_trials == read_study(STUDY, {}, {}).requested_trials
    assert (Path(ledger.root) / "damaged/study.json").read_bytes() == DEFINITIONS[fault]
    assert invoke("status", STUDY, "--store", ledger.store).exit_code == 0


OF_VERSIONS = {
    "an unknown experiment": {"experiment": "e9"},
    "an unknown key": {"later": 3},
    "an unknown section": {"training": {"later": 3}},
    "another type": {"training": "fast"},
    "another network": {"network": {"name": "later"}},
    "a list for a network": {"network": ["a"]},
    "nothing": {"network": None, "data": None, "training": None},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", OF_VERSIONS)
def test_a_definition_of_another_version_is_one_sentence_and_written_anew(fault, ledger, caplog):
    definition = ledger.definition()
    for trees in (definition["trials"], definition["starts"]):
        for tree in trees.values():
            tree.update(OF_VERSIONS[fault])
    ledger.folder.write("study.json", json.dumps(definition).encode())
    trial = next(iter(definition["trials"]))
    for arguments in (["show", STUDY, trial], ["best", STUDY], ["status", STUDY], ["compare", STUDY]):
        check_one_sentence(invoke(*arguments, "--store", ledger.store))
    assert "cannot be used" in invoke("show", STUDY, trial, "--store", ledger.store).output
    study, _ = requested_study(StudyRequest(STUDY, ledger.store), extend=False)
    assert study.requested_trials == read_study(STUDY, {}, {}).requested_trials
    assert "cannot be used" in caplog.text


def test_a_definition_with_starts_but_no_search_is_refused(ledger):
    ledger.folder.write("study.json", json.dumps(ledger.definition() | {"search": None}).encode())
    for command in ("status", "best"):
        result = invoke(command, STUDY, "--store", ledger.store)
        check_one_sentence(result)
        assert "but no search): `diffseg run`" in result.output


def test_a_search_of_another_version_is_replaced(ledger):
    definition = ledger.definition() | {"search": {"space": "later"}}
    with pytest.raises(DefinitionError, match=r"search\.space"):
        stored_study(STUDY, definition)
    ledger.folder.write("study.json", json.dumps(definition).encode())
    assert requested_study(StudyRequest(STUDY, ledger.store), extend=False)[0].search


def tables_for(change: str, everywhere: str) -> list[str]:
    """The tables in which a change is tried: one of attempts' rows and one of others, and one change in every table."""
    return WRITTEN if change == everywhere else ["trials", "images"]


def content_of(*columns):
    return lambda table: pa.table(dict(columns))


INVALID = {  # by what is done to a file; those that do not fit the table they are in are set aside
    "text for a number": set_column("attempt", "one"),
    "a list for text": set_column("trial", ["a"]),
    "no trial": drop_column("trial"),
    "no attempt": drop_column("attempt"),
    "nothing for a trial": set_column("trial", None),
    "another trial": set_column("trial", "other"),
    "another attempt": set_column("attempt", 7),
    "a number out of range": set_column("attempt", 2**40),
    "bytes that are no text": set_column("trial", b"\xff\xfe"),
    "another table": content_of(("a", [1, 2]), ("b", ["x", "y"])),
    "no columns": content_of(),
}
VALID = {
    "an extra column": set_column("later", "x"),
    "an extra column of lists": set_column("later", [["x"]]),
    "wider numbers": lambda table: table.cast(
        pa.schema([pa.field(f.name, pa.int64() if pa.types.is_int32(f.type) else f.type) for f in table.schema])
    ),
    "columns in another order": lambda table: table.select(table.column_names[::-1]),
    "text in a dictionary": lambda table: table.set_column(
        table.column_names.index("trial"), "trial", table["trial"].dictionary_encode()
    ),
    "long text": lambda table: table.set_column(
        table.column_names.index("trial"), "trial", table["trial"].cast(pa.large_string())
    ),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("fault", "table"), [(fault, table) for fault in INVALID for table in tables_for(fault, "another table")]
)
def test_a_file_of_another_schema_is_skipped_with_one_warning_and_set_aside(fault, table, ledger, caplog):
    path = some(ledger, table)
    rewrite(path, INVALID[fault])
    for other in SCHEMAS:
        ledger.read(other)
    if fault == "another table":
        quick_commands(ledger)
        read_all(ledger)
    assert caplog.text.count(f"{path} is skipped, since") <= 4  # once a command, and once here
    if table == "trials":
        assert path.name.rpartition("-")[0] not in {row["trial"] for row in ledger.last_rows(["status"])}
    caplog.clear()
    assert str(path) in ledger.set_aside_damaged()
    assert f"{path} is set aside in {ledger.root}/damaged, since it" in caplog.text
    assert not path.exists()
    assert not (Path(ledger.root) / "trials" / path.name).exists()
    assert (Path(ledger.root) / "damaged" / table / path.name).exists()
    assert ledger.set_aside_damaged() == []
    compact(ledger)
    assert ledger.read("trials").num_rows


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "table"), [(one, table) for one in VALID for table in tables_for(one, "an extra column")]
)
def test_a_table_of_a_later_version_is_read(change, table, ledger, caplog):
    path, before = some(ledger, table), ledger.read(table, ["trial", "attempt"]).to_pylist()
    rewrite(path, VALID[change])
    assert ledger.read(table, ["trial", "attempt"]).to_pylist() == before
    ledger.read(table)
    assert ledger.set_aside_damaged() == []
    assert caplog.text == ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", [field for field in SCHEMAS["trials"].names if field not in ("trial", "attempt", "status")]
)
def test_columns_that_a_file_lacks_are_null(name, ledger):
    """One file lacks it, then all do."""
    paths = sorted((Path(ledger.root) / "trials").glob("*.parquet"))
    for some_paths in (paths[:1], paths):
        for path in some_paths:
            rewrite(path, drop_column(name))
        assert ledger.last_rows([name])[0][name] is None
    assert ledger.set_aside_damaged() == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "leaf", ["training_steps", "data_held_out", "diffusion_target", "inference_seeds", "inference_steps"]
)
@pytest.mark.parametrize(
    "values", ["text", *(pytest.param(values, marks=pytest.mark.slow) for values in (None, 3.5, True, [1]))], ids=str
)
def test_settings_of_other_types_end_in_no_traceback(leaf, values, ledger):
    for path in sorted((Path(ledger.root) / "trials").glob("*.parquet"))[::2]:
        rewrite(path, set_column(f"config_{leaf}", values))
    quick_commands(ledger)
    read_all(ledger)
    ledger.set_aside_damaged()
    read_all(ledger)


VALUES = {
    "an unknown status": ("status", "finished"),
    "no status": ("status", None),
    "versions are no JSON": ("versions", "{"),
    "versions are a list": ("versions", "[]"),
    "deep versions": ("versions", "[" * 100_000),
    "scaling is text": ("scaling", "mine"),
    "labels are a list": ("labels", "[]"),
    "a configuration is a number": ("config", "3"),
    "a date of another age": ("started", pa.array([2**60], pa.timestamp("ms", "UTC"))),
    "a date before 1970": ("finished", pa.array([-(2**60)], pa.timestamp("ms", "UTC"))),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", VALUES)
def test_files_with_impossible_values_are_set_aside(fault, ledger):
    path = some(ledger, "trials")
    rewrite(path, set_column(*VALUES[fault]))
    quick_commands(ledger, path.name.rpartition("-")[0])
    read_all(ledger)
    assert ledger.set_aside_damaged() == [str(path)]


FOREIGN = ["notes.txt", "a.tmp", "x.parquet", "folder.parquet/", "folder/", "a-b.parquet", "merged-a.parquet", "-1.parquet",
           "a-1.PARQUET", "e1-x-s0-abc-1 (copy).parquet", "e1-x-99999999999999999999.parquet", "a-1.parquet.bak"]  # fmt: skip
HIDDEN = [".DS_Store", ".nfs0000000001", "._e1-x-s0-abc-1.parquet", ".hidden-1.parquet"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("table", TABLES)
def test_foreign_files_among_the_tables_are_skipped_and_set_aside(table, ledger):
    place, before = Path(ledger.root) / table, ledger.read("trials").num_rows
    for name in (*FOREIGN, *HIDDEN):
        if name.endswith("/"):
            (place / name).mkdir()
            (place / name / "inside.txt").write_text("mine")
        else:
            (place / name).write_bytes(b"mine")
    read_all(ledger)
    quick_commands(ledger)
    found = ledger.set_aside_damaged()
    assert {Path(path).name for path in found} == {name.rstrip("/") for name in FOREIGN}
    assert ledger.set_aside_damaged() == []
    assert {path.name for path in place.iterdir()} >= set(HIDDEN)
    assert (Path(ledger.root) / "damaged" / table / "folder/inside.txt").read_text() == "mine"
    assert ledger.read("trials").num_rows == before
    compact(ledger)
    read_all(ledger)


@pytest.mark.parametrize("table", TABLES)
def test_a_file_in_place_of_a_tables_folder_is_set_aside(table, tmp_path):
    ledger = Ledger(str(tmp_path), STUDY)
    ledger.define(read_study(STUDY, {}, {}).definition())
    (tmp_path / STUDY / table).write_bytes(b"mine")
    quick_commands(ledger)
    assert ledger.set_aside_damaged() == [f"{ledger.root}/{table}"]
    ledger.write("a", 1, {"trials": [{"status": "complete"}]})
    assert ledger.last_attempts() == {"a": 1}


METADATA = {
    "none": None,
    "no JSON": b"{",
    "a number": b"3",
    "numbers": b"[3]",
    "others": b'["a-1.parquet"]',
    "strange": b'["x"]',
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", METADATA)
def test_a_merged_file_without_its_metadata_is_set_aside_with_its_attempts(fault, ledger):
    compact(ledger)
    ledger.write("e1-later", 1, {"trials": [{"status": "complete"}]})
    (path,) = (path for path in (Path(ledger.root) / "trials").iterdir() if path.name.startswith("merged-"))
    table = pq.read_table(path).replace_schema_metadata(METADATA[fault] and {STANDS_FOR: METADATA[fault]})
    pq.write_table(table, path)
    read_all(ledger)
    quick_commands(ledger)
    assert str(path) in ledger.set_aside_damaged()
    assert ledger.last_attempts() == {"e1-later": 1}
    assert not [one for table in SCHEMAS for one in (Path(ledger.root) / table).glob("merged-*")]
    assert compact(ledger) == 1


def test_a_copy_of_a_merged_file_counts_once(ledger):
    compact(ledger)
    before = ledger.read("trials").num_rows
    (path,) = (path for path in (Path(ledger.root) / "trials").iterdir())
    copy = path.with_name(f"merged-{'f' * 32}.parquet")
    copy.write_bytes(path.read_bytes())
    assert ledger.read("trials").num_rows == before
    assert len(ledger.set_aside_damaged()) == 1
    assert ledger.read("trials").num_rows == before
    compact(ledger)
    assert ledger.read("trials").num_rows == before


def test_an_attempt_that_comes_twice_counts_once(ledger):
    path = some(ledger, "trials")
    before = len(ledger.last_rows(["status"]))
    copy = path.with_name(path.name.replace("-1.parquet", "-2.parquet"))
    copy.write_bytes(path.read_bytes())
    read_all(ledger)
    assert len(ledger.last_rows(["status"])) == before
    assert ledger.set_aside_damaged() == [str(copy)]
    rewrite(path, lambda table: pa.concat_tables([table, table]))
    assert ledger.set_aside_damaged() == [str(path)]


RECORDED = {
    "text for a number": set_column("number", "x"),
    "no settings": drop_column("settings"),
    "settings are no JSON": set_column("settings", "{"),
    "settings are a list": set_column("settings", "[]"),
    "a configuration is text": set_column("config", "mine"),
    "another number": set_column("number", 9),
    "no search": set_column("search", None),
    "a configuration without a trial": set_column("trial", None),
    "no column of trials": drop_column("trial"),
    "another table": content_of(("a", [1])),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("fault", RECORDED)
def test_proposals_of_another_form_are_set_aside(fault, ledger):
    path = some(ledger, "proposals")
    rewrite(path, RECORDED[fault])
    read_all(ledger)
    quick_commands(ledger)
    assert ledger.set_aside_damaged() == [str(path)]
    read_all(ledger)


@pytest.mark.parametrize("table", ["proposals", "rungs"])
def test_proposals_and_rungs_of_a_later_version_are_read(table, ledger):
    path, before = some(ledger, table), ledger.records(table)
    rewrite(path, set_column("later", "x"))
    assert ledger.records(table) == before
    assert ledger.set_aside_damaged() == []


def test_a_proposal_of_another_version_is_one_sentence(ledger):
    rewrite(some(ledger, "proposals"), set_column("config", '{"later": 1}'))
    result = invoke("status", STUDY, "--store", ledger.store)
    check_one_sentence(result)
    assert "is of a version of diffseg that this one cannot read" in result.output


FAILURES = {
    "full": (errno.ENOSPC, "disk or quota is full.*make room"),
    "quota": (errno.EDQUOT, "disk or quota is full"),
    "broken": (errno.EIO, "cannot be written"),
    "stale": (errno.ESTALE, "cannot be written"),
    "gone": (errno.ENOENT, "cannot be written"),
    "slow": (errno.ETIMEDOUT, "cannot be written"),
    "read-only": (errno.EROFS, "cannot be written.*--store DIR"),
    "forbidden": (errno.EACCES, "cannot be written"),
}
WRITES = {
    "a definition": lambda ledger: ledger.define(read_study(STUDY, {}, {}).definition()),
    "an attempt": lambda ledger: ledger.write(
        "e1-later", 1, {"trials": [{"status": "complete"}], "images": [{"image": "a"}]}
    ),
    "a proposal": lambda ledger: ledger.record("rungs", [{"search": "a", "step": 1, "trial": "b"}]),
    "a compaction": compact,
    "any file": lambda ledger: ledger.folder.write("stop", b""),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_store_that_cannot_be_written_is_one_sentence_and_loses_nothing(failure, write, ledger, monkeypatch):
    number, words = FAILURES[failure]
    before = {table: ledger.read(table).num_rows for table in SCHEMAS}

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    for where in ("replace", "open", "mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, where, fails)
            with pytest.raises(UserError, match=words) as error:
                WRITES[write](ledger)
        assert isinstance(error.value, OSError)  # so that trials wait for the store
        assert "\n" not in str(error.value)
        assert not any((Path(ledger.root) / "tmp").iterdir())
        assert {table: ledger.read(table).num_rows for table in SCHEMAS} == before
    WRITES[write](ledger)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_a_store_that_cannot_be_read_is_not_taken_for_a_damaged_one(number, ledger, monkeypatch):
    """Nothing is set aside, and nobody is told that all trials wait."""

    class Away:
        def __getattr__(self, name):
            def fails(*_, **__):
                raise OSError(number, os.strerror(number))

            return fails

    object.__setattr__(ledger.folder, "filesystem", Away())
    for action in (
        ledger.last_attempts,
        ledger.last_rows,
        ledger.definition,
        ledger.set_aside_damaged,
        lambda: ledger.records("rungs"),
    ):
        with pytest.raises(StoreError, match=r"cannot be read .*check that the store is there"):
            action()


def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(ledger, monkeypatch):
    """Of a list of files that is there, none can be opened."""
    object.__setattr__(ledger.folder, "filesystem", PyFileSystem(Failing(LocalFileSystem())))
    for action in (
        lambda: ledger.read("images"),
        ledger.last_rows,
        ledger.set_aside_damaged,
        lambda: ledger.records("proposals"),
    ):
        with pytest.raises(StoreError, match=r"cannot be read .*Input/output error"):
            action()


def test_commands_that_read_write_nothing(sound, tmp_path):
    ledger = copy_ledger(sound, tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in Path(ledger.store).rglob("*")}
    quick_commands(ledger)
    read_all(ledger)
    invoke("plan", STUDY, "--store", ledger.store)
    assert {path: path.stat().st_mtime_ns for path in Path(ledger.store).rglob("*")} == before


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a disk of its own with 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_is_one_sentence_and_loses_nothing(tiny_disk):
    ledger, written = Ledger(str(tiny_disk), "study"), []
    ledger.define({"trials": {}})
    with pytest.raises(StoreError, match=r"disk or quota is full .*No space left"):  # noqa: PT012
        for number in range(1000):
            ledger.write(f"e1-{number}", 1, {"trials": [{"status": "complete", "log": os.urandom(2000).hex()}]})
            written.append(f"e1-{number}")
    assert sorted(ledger.last_attempts()) == sorted(written)
    assert {row["trial"] for row in ledger.last_rows(["status"])} == set(written)
    assert ledger.definition()["trials"] == {}
    with pytest.raises(StoreError, match="disk or quota is full"):
        compact(ledger)
    with contextlib.suppress(StoreError):
        ledger.define({"trials": {f"a{number}": {} for number in range(10_000)}})
    assert ledger.definition()["trials"] == {}
    assert invoke("status", "study", "--store", str(tiny_disk)).exit_code == 0
    (tiny_disk / "study" / "trials" / "e1-0-1.parquet").unlink()
    ledger.write("e1-later", 1, {"trials": [{"status": "complete"}]})
    assert "e1-later" in ledger.last_attempts()


def test_a_store_on_a_disk_that_may_not_be_written_is_read(sound, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "--bind", "-o", "ro", sound.store, place]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True, capture_output=True)
        ledger = Ledger(str(place), STUDY)
        quick_commands(ledger)
        assert invoke("status", STUDY, "--store", str(place)).exit_code == 0
        for arguments in (["compact", STUDY], ["dashboard", STUDY]):
            result = invoke(*arguments, "--store", str(place))
            check_one_sentence(result)
            assert result.exit_code == 2
            assert "Read-only file system" in result.output
        with pytest.raises(StoreError, match="Read-only file system"):
            ledger.define({})
    finally:
        subprocess.run(["umount", place], check=True)


NAMES = {
    "x" * 300: r"has 300 bytes, but at most 237 fit",
    "ü" * 130: r"has 260 bytes, but at most 237 fit",
    "x" * 238: r"has 238 bytes, but at most 237 fit",
    "con": "Windows reserves it",
    "NUL.2": "Windows reserves it",
    "com1": "Windows reserves it",
    "a.": "ends with a space or a dot",
    "a ": "ends with a space or a dot",
    " a": "not a valid study name",
    ".a": "not a valid study name",
    "-a": "not a valid study name",
    "a:b": "not a valid study name",
    "a\\b": "not a valid study name",
    "a*": "not a valid study name",
    "a\nb": "not a valid study name",
    "a\0b": "not a valid study name",
    "a\x1b[31mb": "not a valid study name",
    "[/red]": "not a valid study name",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:10].encode("unicode_escape").decode())
def test_names_that_some_file_system_does_not_take_are_refused_in_a_sentence(name, tmp_path):
    with pytest.raises(UserError, match=NAMES[name]) as error:
        Ledger(str(tmp_path), name)
    assert str(error.value).isprintable()
    if "\0" not in name:
        check_one_sentence(invoke("plan", "quickstart", f"--name={name}", "--store", str(tmp_path)))
    assert not any(tmp_path.iterdir())


def test_the_longest_name_works(tmp_path):
    ledger = Ledger(str(tmp_path), "ü" * 118 + "x")
    ledger.define({})
    assert ledger.is_defined()
    Folder.open(str(tmp_path)).write(f"{ledger.study}-dashboard.journal", b"")


def test_a_store_with_too_long_a_path_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has a path of \d+ bytes .* but at most 3396 fit: give another --store DIR"):
        Ledger(str(tmp_path / "/".join(["x" * 200] * 20)), "study")
