"""The ledger: every finished attempt at a trial as small immutable Parquet files, and the only truth there is.

`<store>/<study>/<table>/<trial>-<attempt>.parquet`, one file a table and attempt, written to a temporary name and
renamed. The row in `trials` is written last: an attempt whose row is missing did not happen, and what it left in other
tables is not read. Stores are local folders, NFS or object stores (any URI of pyarrow's filesystems).

Two more tables are of a search and are written before an attempt ends: `proposals/<search>-<number>-<seed>.parquet`, what
is to be tried, before it starts, and `rungs/<search>-<step>-<trial>.parquet`, how good a trial is by then.
Many small files are slow to read, so `compact` (studies/compaction.py) merges them: `<table>/merged-<id>.parquet`, of one id
in all tables, `trials` again last. That file's metadata names the files which the id stands for in every table, and from
the moment that it exists those no longer count.

Units: seconds, bytes, and metrics as fractions (IoU 0.87, not 87). What is undefined is NaN.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from diffseg.errors import DefinitionError, UserError
from studies.store import names, validity
from studies.store import study_json as definitions
from studies.store.folder import Folder
from studies.store.outages import read_errors
from studies.store.tables import (
    COMMON_LEAVES,
    NUMERIC_LEAVES,
    SCHEMAS,
    SEARCH_SCHEMAS,
    attempt_table,
    search_table,
)
from studies.store.validity import READ_ERRORS, InvalidFile, is_merged, parse_attempt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ledger:
    """The tables of one study. `store` is a path or a URI.

    All methods raise StoreError if the store is out of reach. Files that are damaged or not the ledger's are passed over by
    all that read, with a warning, and `set_aside` moves them away.
    """

    store: str
    study: str

    def __post_init__(self):
        """Raises UserError if the store cannot be used, or if the study's name would lead out of it or is too long."""
        try:
            outer = Folder.open(self.store)
            names.check_study(self.study, outer.local and outer.local / self.study)
            folder = outer.at(self.study)
        except (OSError, ValueError) as error:
            raise UserError(f"the store {self.store} cannot be used ({error}): give another with --store DIR") from None
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "filesystem", folder.filesystem)
        object.__setattr__(self, "root", folder.path)
        object.__setattr__(self, "_warned", set())

    def write(self, trial: str, attempt: int, tables: dict[str, list[dict]]) -> None:
        """Record one attempt: rows by table, `trials` holding one row, written last."""
        found = {table: attempt_table(table, trial, attempt, rows) for table, rows in tables.items()}
        for table in sorted(found, key=lambda name: name == "trials"):
            if found[table].num_rows:
                self._write(f"{table}/{trial}-{attempt}.parquet", found[table])

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        trials: list[str] | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """All rows of attempts that ended, or only those of some trials, or that meet a condition. A compaction that runs
        meanwhile changes nothing in the answer.
        """
        while True:
            files = self.counted_files(table, trials)
            found, sound = self.scan_files(table, files, columns, trials, where)
            if (
                sound == files or self.counted_files(table, trials) == files
            ):  # else some were merged, and they are not damaged
                return found

    def scan_files(
        self,
        table: str,
        files: list[str],
        columns: list[str] | None = None,
        trials: list[str] | None = None,
        where: ds.Expression | None = None,
    ) -> tuple[pa.Table, list[str]]:
        """The rows of some files, and the names of the files that could be read."""
        try:
            return self._rows(table, files, columns, trials, where), files
        except READ_ERRORS:
            faults = self._faults(table, files)
            sound = [file for file in files if file not in faults]
            there = set(self.file_names(table)) if faults else set()  # the others were merged meanwhile
            for file in there.intersection(faults):
                self._pass_over(f"{table}/{file}", faults[file])
            return self._rows(table, sound, columns, trials, where), sound

    def dataset(self, table: str, trials: list[str] | None = None) -> ds.Dataset:
        """The rows that `read` returns, to be scanned by columns and filters. Not to be kept while the study is compacted."""
        return self._open(table, self.counted_files(table, trials), trials)

    def counted_files(self, table: str, trials: list[str] | None = None) -> list[str]:
        """Names of the files whose rows count, or only those that may hold some trials."""
        wanted = None if trials is None else set(trials)
        while True:
            try:
                ended = self.file_names("trials")
                found = set(self.file_names(table)).intersection(ended)
                replaced = self._replaced(ended)
                now = self.file_names("trials")
            except FileNotFoundError:  # merged once more
                continue
            if list(filter(is_merged, ended)) == list(filter(is_merged, now)):  # so that the lists go together
                return sorted(
                    file
                    for file in found - replaced
                    if wanted is None or is_merged(file) or parse_attempt(file)[0] in wanted
                )

    def _replaced(self, ended: list[str]) -> set[str]:
        """The files for which merged ones stand, and merged ones that stand for the same attempts as another."""
        merged = {file: set(self.replaced_by(file)) for file in sorted(filter(is_merged, ended))}
        replaced = {name for names in merged.values() for name in names}
        kept: set[str] = set()
        for file, stands_for in merged.items():
            if file not in replaced and kept & stands_for:
                replaced.add(file)
                self._pass_over(f"trials/{file}", "it stands for the same attempts as another file")
            elif file not in replaced:
                kept |= stands_for
        return replaced

    def replaced_by(self, file: str) -> list[str]:
        """The names of the files that a merged one stands for; none if it is damaged."""
        try:
            with read_errors(self.root):
                metadata = pq.read_schema(f"{self.root}/trials/{file}", filesystem=self.filesystem).metadata
            return validity.replaced_names(metadata)
        except FileNotFoundError:
            raise
        except READ_ERRORS:
            self._readable(f"trials/{file}")
            return []

    def record(self, table: str, name: str, rows: list[dict]) -> None:
        """Write rows of one of RECORDS under a name of their own."""
        self._write(f"{table}/{name}.parquet", search_table(table, rows))

    def records(self, table: str, start: str = "") -> list[dict]:
        """The rows of one of RECORDS whose names start so, by name."""
        rows = []
        for file in self._parquet(table):
            if file.startswith(start):
                try:
                    rows += self._record(table, file).to_pylist()
                except FileNotFoundError:
                    continue
                except READ_ERRORS as error:
                    self._pass_over(f"{table}/{file}", self._reason(f"{table}/{file}", error))
        return rows

    def last_attempts(self) -> dict[str, int]:
        """Trials of which an attempt has ended (complete, failed or pruned), with the number of the last one."""
        files, found = self.counted_files("trials"), {}
        files += [name for file in files if is_merged(file) for name in self.replaced_by(file)]
        for trial, attempt in filter(None, map(parse_attempt, files)):
            found[trial] = max(found.get(trial, 0), attempt)
        return found

    def last_rows(self, columns: list[str] | None = None) -> list[dict]:
        """The row of each trial's last attempt."""
        columns = columns and sorted({*columns, "trial", "attempt"})
        rows = sorted(self.read("trials", columns).to_pylist(), key=lambda row: row["attempt"])
        return list({row["trial"]: row for row in rows}.values())

    def set_aside_damaged(self) -> list[str]:
        """Move what is damaged or not the ledger's to `damaged/`, with a warning each; return the paths it had.

        A damaged file of an attempt goes with the whole attempt, which then counts as never made, so that its trial runs
        again. Hidden files stay, since file systems and their viewers keep some of their own.
        """
        found: dict[str, str] = {}
        for table in (*SCHEMAS, *SEARCH_SCHEMAS):
            if self.folder.exists(table):
                found[table] = "it is a file where the ledger has a folder"
            found |= {f"{table}/{name}": "it is not a file of the ledger" for name in self._foreign(table)}
        for table in SCHEMAS:
            files = self.counted_files(table)
            found |= {f"{table}/{file}": reason for file, reason in self._faults(table, files).items()}
        merged = set(filter(is_merged, self.file_names("trials"))).difference(self.counted_files("trials"))
        for file in sorted(merged - self._named_by_merged()):
            found[f"trials/{file}"] = "it stands for the same attempts as another file"
        for table in SEARCH_SCHEMAS:
            for file in self._parquet(table):
                try:
                    self._record(table, file)
                except READ_ERRORS as error:
                    found[f"{table}/{file}"] = self._reason(f"{table}/{file}", error)
        for path, reason in found.items():
            table, _, file = path.partition("/")
            again = "; its trials run again" if table in SCHEMAS and validity.is_ledger_name(file) else ""
            log.warning("%s/%s is set aside in %s/damaged, since %s%s", self.root, path, self.root, reason, again)
            whole = SCHEMAS if table in SCHEMAS and validity.is_ledger_name(file) else [table]
            for other in whole:  # `trials` first: without its row the rest no longer counts
                place = f"{other}/{file}" if file else other
                self.folder.move(place, f"damaged/{place}")
        return [f"{self.root}/{path}" for path in found]

    def definition(self) -> dict | None:
        """The study's desired state, as `run` wrote it last; None if the study does not exist.

        Raises DefinitionError if the file is damaged.
        """
        content = self.folder.read(definitions.NAME)
        return None if content is None else definitions.parse(content, f"{self.root}/{definitions.NAME}")

    def usable_definition(self) -> dict | None:
        """The definition, for those that can write it anew; None, with a warning, if it is damaged."""
        try:
            return self.definition()
        except DefinitionError as error:
            log.warning("%s", error)
            return None

    def is_defined(self) -> bool:
        """Whether the study exists."""
        return self.folder.exists(definitions.NAME)

    def define(self, definition: dict) -> None:
        """Write the desired state; one that cannot be read is kept in `damaged/`."""
        try:
            self.definition()
        except DefinitionError:
            self.folder.move(definitions.NAME, f"damaged/{definitions.NAME}")
        self.folder.write(definitions.NAME, definitions.content(definition), durable=True)

    def _write(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.folder.write(path, sink.getvalue(), durable=True)

    def file_names(self, table: str) -> list[str]:
        """The files of a table that have the name of an attempt or of a merged file."""
        return [name for name in self._parquet(table) if validity.is_ledger_name(name)]

    def _parquet(self, table: str) -> list[str]:
        return sorted(
            info.base_name
            for info in self._entries(table)
            if info.type == pafs.FileType.File and info.base_name.endswith(".parquet") and info.base_name[0] != "."
        )

    def _foreign(self, table: str) -> list[str]:
        """What lies among a table's files and is none of them."""
        known = set(self.file_names(table) if table in SCHEMAS else self._parquet(table))
        every = {info.base_name for info in self._entries(table) if info.base_name[:1] not in (".", "")}
        return sorted(every - known)

    def _entries(self, table: str) -> list[pafs.FileInfo]:
        try:
            with read_errors(self.root):
                return self.filesystem.get_file_info(pafs.FileSelector(f"{self.root}/{table}", allow_not_found=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _named_by_merged(self) -> set[str]:
        return {name for file in self.file_names("trials") if is_merged(file) for name in self.replaced_by(file)}

    def _rows(
        self,
        table: str,
        files: list[str],
        columns: list[str] | None,
        trials: list[str] | None,
        where: ds.Expression | None,
    ) -> pa.Table:
        """The rows of files. Raises one of UNREADABLE if one of the files is damaged."""
        data = self._open(table, files, trials, columns)
        known = ds.field("trial").is_valid() & ds.field("attempt").is_valid()
        wanted = data.schema.names if columns is None else columns
        keys = ["trial", "attempt", "status"] if table == "trials" else []
        found = data.to_table(
            columns=[*dict.fromkeys([*wanted, *keys])], filter=known if where is None else known & where
        )
        validity.check_values(table, found)
        if table == "trials":
            _check_once(found, files if where is None and trials is None else None)
        return found.select(wanted)

    def _faults(self, table: str, files: list[str]) -> dict[str, str]:
        """What is wrong with which files."""
        with ThreadPoolExecutor() as pool:
            reasons = pool.map(lambda file: self._fault(table, file), files)
            return {file: reason for file, reason in zip(files, reasons, strict=True) if reason}

    def _fault(self, table: str, file: str) -> str | None:
        try:
            names = None
            if table == "trials" and is_merged(file):
                metadata = pq.read_schema(f"{self.root}/{table}/{file}", filesystem=self.filesystem).metadata
                names = validity.replaced_names(metadata)
            rows = self._open(table, [file]).to_table()
            validity.check_attempts(table, rows, file, names)
            validity.check_values(table, rows)
        except READ_ERRORS as error:
            return self._reason(f"{table}/{file}", error)
        return None

    def _record(self, table: str, file: str) -> pa.Table:
        """The rows of one of RECORDS' files. Raises one of UNREADABLE if it is damaged."""
        path, schema = f"{self.root}/{table}/{file}", SEARCH_SCHEMAS[table]
        rows = ds.dataset([path], filesystem=self.filesystem, format="parquet", schema=schema).to_table()
        validity.check_values(table, rows)
        for row in rows.to_pylist():
            name = "{search}-{number:04}-{seed}" if table == "proposals" else "{search}-{step}-{trial}"
            if f"{name.format(**row)}.parquet" != file:
                raise InvalidFile(f"its name is not that of its rows, {name.format(**row)[:80]}")
        return rows

    def _reason(self, path: str, error: Exception) -> str:
        """What is wrong with a file, as a clause. Raises StoreError if it is the store that is out of reach."""
        if isinstance(error, InvalidFile):
            return str(error)
        if isinstance(error, FileNotFoundError):
            return "it is gone"
        self._readable(path)
        return f"it is not readable as the table's ({' '.join(str(error).split())[:120]})"

    def _readable(self, path: str) -> None:
        """Raises StoreError unless the bytes of a file can be read, whatever they mean."""
        try:
            with read_errors(self.root), self.filesystem.open_input_stream(f"{self.root}/{path}") as file:
                while file.read(1 << 24):
                    pass
        except (FileNotFoundError, NotADirectoryError):
            return

    def _pass_over(self, path: str, reason: str) -> None:
        """Warn, once, of a file that is not read."""
        if path not in self._warned:
            self._warned.add(path)
            log.warning("%s/%s is passed over, since %s: the next `diffseg run` sets it aside", self.root, path, reason)

    def _open(
        self, table: str, files: list[str], trials: list[str] | None = None, columns: list[str] | None = None
    ) -> ds.Dataset:
        schema = SCHEMAS[table]  # columns that an earlier version did not write are empty
        paths = [f"{self.root}/{table}/{file}" for file in files]
        if table == "trials" and not (columns and set(columns) <= set(schema.names)):
            schema = self._with_leaves(schema, paths)
        if not paths:
            return ds.dataset(schema.empty_table())
        data = ds.dataset(paths, filesystem=self.filesystem, format="parquet", schema=schema)
        some = trials is not None and any(map(is_merged, files))
        return data.filter(ds.field("trial").isin(pa.array(trials, pa.string()))) if some else data

    def _with_leaves(self, schema: pa.Schema, paths: list[str]) -> pa.Schema:
        """With the leaves of the configuration, which differ between versions and between trials. Raises Unfit."""
        kinds = dict(COMMON_LEAVES) if paths else {}
        for found in self._schemas(paths):
            for field in found:
                if field.name.startswith("config_") and field.name not in COMMON_LEAVES:
                    kind = validity.leaf_type(field)
                    kinds[field.name] = NUMERIC_LEAVES.get(field.name) or validity.common_type(
                        kinds.get(field.name, pa.null()), kind
                    )
        return pa.schema([*schema, *kinds.items()])

    def _schemas(self, paths: list[str]) -> list[pa.Schema]:
        """The distinct schemas of files."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda path: pq.read_schema(path, filesystem=self.filesystem).remove_metadata(), paths)
            return list(dict.fromkeys(found))


def _check_once(rows: pa.Table, files: list[str] | None) -> None:
    """Raises Unfit if an attempt comes twice, or unless every one of the files has its own row."""
    keys = list(zip(rows["trial"].to_pylist(), rows["attempt"].to_pylist(), strict=True))
    if len(keys) != len(set(keys)):
        raise InvalidFile("an attempt comes twice")
    if files is not None and not set(filter(None, map(parse_attempt, files))).issubset(keys):
        raise InvalidFile("a file lacks its row")


def open_ledger(store: str, study: str) -> Ledger:
    """The ledger of a study. Raises UserError if the store does not hold it."""
    ledger = Ledger(store, study)
    if not ledger.is_defined():
        from studies.definition.shipped import shipped_studies

        start = f"`diffseg run {study}` starts one"
        if study not in shipped_studies():
            start = f"`diffseg run` starts one from {', '.join(shipped_studies())}, or from a TOML file of your own"
        raise UserError(f"there is no study '{study}' in the store {store}: {start}; --store DIR names another store")
    return ledger
