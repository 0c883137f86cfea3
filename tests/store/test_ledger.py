"""The ledger: what is written is read back, and what cannot be read is set aside."""

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from diffseg.errors import UserError
from diffseg.trial import Outcome
from studies.definition.study import Study
from studies.store.classes import has_classes, of_class
from studies.store.compaction import compact
from studies.store.latest import LatestRows
from studies.store.ledger import Ledger
from studies.store.tables import KEY, SCHEMAS


@pytest.fixture(params=["path", "uri"])
def ledger(request, tmp_path):
    return Ledger(str(tmp_path) if request.param == "path" else f"file://{tmp_path}", "study")


def attempt(status="complete", **more):
    rows = [{"image": name, "metric": "iou", "value": value} for name, value in (("a", 0.5), ("b", 0.7))]
    return {
        "trials": [{"study": "study", "status": status, "iou": 0.6, "config_training_steps": 5, **more}],
        "images": rows,
    }


def test_written_rows_are_read_back(ledger):
    assert ledger.last_attempts() == {}
    assert ledger.read("images").num_rows == 0
    ledger.write("e1-x-s0-abc", 1, attempt())
    ledger.write("e2-x-s0-def", 1, attempt("failed", error="no", config_other="new leaf"))
    ledger.write("e2-x-s0-def", 2, attempt(iou=0.9))
    assert ledger.last_attempts() == {"e1-x-s0-abc": 1, "e2-x-s0-def": 2}
    assert {(row["trial"], row["status"], row["iou"]) for row in ledger.last_rows()} == {
        ("e1-x-s0-abc", "complete", 0.6),
        ("e2-x-s0-def", "complete", 0.9),
    }
    images = ledger.read("images", ["trial", "attempt", "value"]).to_pylist()
    assert len(images) == 6
    assert sorted({(row["trial"], row["attempt"]) for row in images}) == [
        ("e1-x-s0-abc", 1),
        ("e2-x-s0-def", 1),
        ("e2-x-s0-def", 2),
    ]


@pytest.mark.parametrize("first", ["a", "z"])
def test_columns_that_an_earlier_version_did_not_write_are_empty(ledger, first, monkeypatch):
    row = {"step": 1, "t": 0.5, "log_snr": 0.0, "mask_error": 0.1, "loss": 0.2}
    ledger.write("m-new", 1, attempt() | {"timesteps": [row | {"weight": 3.0}]})
    schema = SCHEMAS["timesteps"]
    monkeypatch.setitem(SCHEMAS, "timesteps", schema.remove(schema.get_field_index("weight")))
    ledger.write(f"{first}-old", 1, attempt() | {"timesteps": [row]})
    monkeypatch.undo()
    found = ledger.read("timesteps").to_pylist()
    assert {row["trial"]: row["weight"] for row in found} == {"m-new": 3.0, f"{first}-old": None}


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_of_a_schema_is_read(table, tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    ledger.write(
        "t", 1, {"trials": [{"status": "complete"}], table: [{"status": "complete"} if table == "trials" else {}]}
    )
    assert set(SCHEMAS[table].names) <= set(ledger.read(table).column_names)


def test_an_attempt_without_its_row_did_not_happen(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    ledger.write("t", 1, {"images": attempt()["images"]})  # killed before the row was written
    assert ledger.last_attempts() == {}
    assert ledger.read("images").num_rows == 0


@pytest.mark.parametrize("table", ["trials", "images"])
@pytest.mark.parametrize("keep", [0, 30, -10])
def test_a_truncated_file_is_set_aside_with_its_whole_attempt(table, keep, tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    for trial in ("a", "b"):
        ledger.write(trial, 1, attempt())
    path = tmp_path / "study" / table / "a-1.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    assert {row["trial"] for row in ledger.read(table).to_pylist()} == {"b"}
    assert ledger.set_aside_damaged() == [str(path)]
    assert ledger.last_attempts() == {"b": 1}
    assert sorted(p.name for p in (tmp_path / "study" / "damaged").rglob("*.parquet")) == ["a-1.parquet", "a-1.parquet"]
    assert ledger.set_aside_damaged() == []


def test_definitions_are_kept_and_an_unwritable_store_is_named(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    assert ledger.definition() is None
    whole = Study("study", (), {"mine": "/data"}).definition()
    ledger.define(whole)
    assert ledger.definition() == whole
    ledger.define({"trials": {}})
    assert ledger.definition() == Study("", (), {}).definition() | {"command": None}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is a file.*--store DIR"):
        Ledger(str(tmp_path / "file" / "below"), "study").define({})


@pytest.mark.parametrize("name", ["../other", "a/b", "/tmp/x", "..", "", ".hidden"])
def test_a_study_stays_in_its_store(name, tmp_path):
    with pytest.raises(UserError, match="is not a valid study name"):
        Ledger(str(tmp_path), name)
    assert Ledger(str(tmp_path), "my study 2.1-b").root.endswith("/my study 2.1-b")


def test_latest_rows_reads_each_file_once(tmp_path, monkeypatch):
    ledger, read = Ledger(str(tmp_path), "study"), []
    scan = Ledger.scan_files
    monkeypatch.setattr(
        Ledger, "scan_files", lambda self, table, files, *rest: read.extend(files) or scan(self, table, files, *rest)
    )
    latest = LatestRows(ledger, ["status"])
    assert latest.rows() == {}
    for trial, attempt, status in (("a", 1, "failed"), ("b", 1, "complete"), ("a", 2, "complete")):
        ledger.write(trial, attempt, {"trials": [{"status": status}]})
        assert latest.rows()[trial] == {"trial": trial, "attempt": attempt, "status": status}
        latest.rows()
    assert read == ["a-1.parquet", "b-1.parquet", "a-2.parquet"]
    compact(ledger)
    ledger.write("c", 1, {"trials": [{"status": "pruned"}]})
    assert latest.rows() == {row["trial"]: row for row in ledger.last_rows(["status"])}
    ledger.folder.write("trials/d-1.parquet", b"PAR1 not whole")
    assert set(latest.rows()) == {"a", "b", "c"}
    ledger.write("d", 1, {"trials": [{"status": "complete"}]})
    assert set(latest.rows()) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"heatmaps": [{"image": "a"}]}, r"no table 'heatmaps': allowed are trials, curves"),
        ({"heatmaps": []}, r"no table 'heatmaps'"),
        ({"images": [{"image": "a"}, {"image": "b", "sharpness": 1.0}]}, r"'images' has no column 'sharpness'"),
        ({"trials": [{"status": "complete", "sharpness": 1.0}]}, r"'trials' has no column 'sharpness'"),
        ({"images": [{"config_new": 1}]}, r"'images' has no column 'config_new'"),
    ],
)
def test_unknown_tables_and_columns_are_refused_before_anything_is_written(tables, words, tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    with pytest.raises(ValueError, match=words):
        ledger.write("t", 1, attempt() | tables)
    assert ledger.folder.files() == {}


def test_unknown_tables_and_columns_of_searches_are_refused(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    row = {"search": "a", "step": 1, "trial": "b", "metric": "iou", "value": 0.5}
    with pytest.raises(ValueError, match=r"no table 'images' of searches: allowed are proposals, rungs"):
        ledger.record("images", [row])
    with pytest.raises(ValueError, match=r"'rungs' has no column 'when'"):
        ledger.record("rungs", [row | {"when": 3}])


def test_the_tables_of_an_outcome_are_those_of_the_ledger():
    assert set(Outcome({}).tables()) == set(SCHEMAS)


def test_a_new_table_needs_a_schema_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEMAS, "heatmaps", pa.schema([*KEY, ("image", pa.string()), ("png", pa.binary())]))
    ledger = Ledger(str(tmp_path), "study")
    for trial in "ab":
        ledger.write(trial, 1, attempt() | {"heatmaps": [{"image": "x", "png": trial.encode()}]})
    before = ledger.read("heatmaps").to_pylist()
    assert [row["png"] for row in before] == [b"a", b"b"]
    compact(ledger)
    assert len(ledger.files.counted_names("heatmaps")) == 1
    assert ledger.read("heatmaps").to_pylist() == before
    ledger.folder.write("heatmaps/" + ledger.files.counted_names("heatmaps")[0], b"damaged")
    assert len(ledger.set_aside_damaged()) == 1


CLASSED = [table for table in SCHEMAS if has_classes(table)]


def classed_attempt(table, names):
    """An attempt with a row of a table for each class; None: an earlier version's, without the column."""
    rows = [{} if name is None else {"class": name} for name in names]
    return attempt() | {table: rows}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("compacted", [(), ("old",), ("old", "new")])
@pytest.mark.parametrize("table", CLASSED)
def test_classes_are_read_from_old_and_new_files(table, compacted, ledger, monkeypatch):
    """Rows of files without the column `class` are of all classes, loose and merged, beside files that have it."""
    schema = SCHEMAS[table]
    monkeypatch.setitem(SCHEMAS, table, schema.remove(schema.get_field_index("class")))
    for trial in ("a-old", "z-old"):
        ledger.write(trial, 1, classed_attempt(table, [None]))
    if "old" in compacted:
        compact(ledger)
    monkeypatch.undo()
    ledger.write("m-new", 1, classed_attempt(table, ["all"]))
    ledger.write("n-several", 1, classed_attempt(table, ["all", "organ", "lesion"]))
    if "new" in compacted:
        compact(ledger)
    assert len(ledger.files.counted_names(table)) == {0: 4, 1: 3, 2: 1}[len(compacted)]
    assert ledger.read(table).num_rows == 2 + 1 + 3

    def trials(name):
        return sorted(ledger.read(table, ["trial"], where=of_class(name))["trial"].to_pylist())

    assert trials("all") == ["a-old", "m-new", "n-several", "z-old"]
    assert trials("organ") == trials("lesion") == ["n-several"]
    condition = of_class() & (ds.field("trial") != "m-new")
    assert ledger.read(table, ["trial"], ["m-new", "a-old"], condition)["trial"].to_pylist() == ["a-old"]
