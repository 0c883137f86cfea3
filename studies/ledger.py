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

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from diffseg.errors import UserError
from studies.folder import Folder

# Means over the test images, and whether more is better. From iou_raters on, of data with several raters only.
METRICS = {
    "iou": True, "dice": True, "ece": False, "brier": False, "nll": False, "iou_raters": True, "dice_raters": True,
    "ged": False, "ged_unbiased": False, "hm_iou": True, "ncc": True,
}  # fmt: skip

MERGED = "merged-"  # how the names of merged files begin; those of trials begin with their experiment
STANDS_FOR = b"stands_for"  # JSON, in the metadata of merged files of `trials`

_KEY = [("trial", pa.string()), ("attempt", pa.int32())]
# fmt: off
SCHEMAS = {
    # An attempt. `config_*` columns, one for every leaf of the configuration, follow these.
    "trials": pa.schema([
        ("study", pa.string()), *_KEY, ("digest", pa.string()), ("status", pa.string()),  # complete, failed or pruned
        ("experiment", pa.string()), ("dataset", pa.string()), ("network", pa.string()), ("seed", pa.int64()),
        ("scored_on", pa.string()),                                     # the images of its metrics and errors: test or held-out
        ("config", pa.string()),                                        # canonical JSON
        *((metric, pa.float64()) for metric in METRICS),                # E1 and E2 only
        ("left_out", pa.string()),                                      # JSON: metric to images that are NaN and not in its mean
        ("samples", pa.float64()),                                      # of an image, that ged and the like depend on
        ("evaluations", pa.float64()),                                  # of the network, a sample and tile, mean
        ("steps", pa.int64()), ("micro_batch", pa.int64()),             # images that one worker trained on at once
        ("workers", pa.int64()), ("parameters", pa.int64()), ("trained", pa.string()),  # see Config.trained
        ("network_of", pa.string()),                                    # the trial whose training it has, if not its own
        ("checkpoint", pa.string()),                                    # the file that its training ended with
         ("train_images", pa.int64()), ("test_images", pa.int64()),
        ("data_digest", pa.string()), ("scaling", pa.string()),         # JSON: how pixels became numbers, by channel
        ("seconds", pa.float64()), ("train_seconds", pa.float64()), ("evaluate_seconds", pa.float64()),
        ("gpu_seconds", pa.float64()), ("peak_memory_bytes", pa.int64()),
        ("precision", pa.string()), ("compiled", pa.bool_()),           # what the network was trained in, by torch.compile?
        ("device", pa.string()), ("host", pa.string()), ("git_commit", pa.string()), ("dirty", pa.bool_()),
        ("versions", pa.string()),                                      # JSON: package to version
        ("fingerprint", pa.string()),                                   # JSON: knots [log-SNR, weight] that weighed training
        ("started", pa.timestamp("ms", "UTC")), ("finished", pa.timestamp("ms", "UTC")),
        ("error", pa.string()), ("log", pa.string()),                   # the sentence; the file that tells more
    ]),
    # Learning curves: loss, gradient_norm, learning_rate, step_seconds, idle_share … at training steps.
    "curves": pa.schema([*_KEY, ("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())]),
    # Errors of the trained model over the noise levels. mask_error: mean squared error of the predicted clean mask in
    # units of masks in ±1 (0 to 4). dice_error: 1 − Dice of that mask. cross_entropy: of it, mean over the pixels, nats. The
    # three are NaN for E4. loss: mean squared error of the trained target. weight: effective weight
    # W(λ) of the noise level in training, on the squared error of ε per unit of log-SNR.
    "timesteps": pa.schema([*_KEY, ("step", pa.int64()), ("t", pa.float64()), ("log_snr", pa.float64()),
                            ("mask_error", pa.float64()), ("dice_error", pa.float64()), ("cross_entropy", pa.float64()),
                            ("loss", pa.float64()), ("weight", pa.float64())]),
    # Fingerprints of an E3 trial's data set, of every kind (see diffseg/fingerprint.py), at the levels of `timesteps`. digest:
    # of the data's content. size: px. coding: of the mask. error and error_smooth: mask_error, dice_error or cross_entropy,
    # measured, and monotone and smooth. derivative: of the latter by −log-SNR; derivative_t: by t. weight: the kind's
    # profile as a share of its greatest value.
    "fingerprints": pa.schema([*_KEY, ("dataset", pa.string()), ("digest", pa.string()), ("size", pa.int64()),
                               ("coding", pa.string()), ("kind", pa.string()), ("t", pa.float64()), ("log_snr", pa.float64()),
                               ("error", pa.float64()), ("error_smooth", pa.float64()), ("derivative", pa.float64()),
                               ("derivative_t", pa.float64()), ("weight", pa.float64())]),
    # A metric of a test image: those of METRICS but ece, and what diffseg/metrics.py and diffseg/ambiguity.py say of more.
    # group: the patient or volume of the image, null where it is not known.
    "images": pa.schema([*_KEY, ("image", pa.string()), ("group", pa.string()), ("metric", pa.string()),
                         ("value", pa.float64())]),
    # Reliability of the merged foreground probability of a test image, in those of ten equal bins that have pixels; the
    # sums over all images, weighted by count, give the ece of `trials`.
    "calibration": pa.schema([*_KEY, ("image", pa.string()), ("group", pa.string()), ("bin", pa.int32()),
                              ("count", pa.int64()), ("confidence", pa.float64()), ("accuracy", pa.float64())]),
    # Small pictures of a few test images: kind is image, truth, mean or sd (of the ensemble; sd 0.5 is white).
    "examples": pa.schema([*_KEY, ("image", pa.string()), ("kind", pa.string()), ("png", pa.binary())]),
}
RECORDS = {
    # What a search tries. A number's first row, of the search's own seed, is its proposal; others train it again.
    "proposals": pa.schema([
        ("search", pa.string()), ("number", pa.int32()), ("seed", pa.int64()), ("trial", pa.string()),
        ("source", pa.string()),                                        # sampler, or name of a point tried first
        ("settings", pa.string()),                                      # JSON: leaves of the configuration by their path
        ("config", pa.string()), ("reason", pa.string()),               # canonical JSON; or why there is no such trial
    ]),
    "rungs": pa.schema([("search", pa.string()), ("step", pa.int64()), ("trial", pa.string()), ("metric", pa.string()),
                        ("value", pa.float64())]),
}
# fmt: on


@dataclass(frozen=True)
class Ledger:
    """The tables of one study. `store` is a path or a URI."""

    store: str
    study: str

    def __post_init__(self):
        """Raises UserError if the store cannot be used, or if the study's name would lead out of it."""
        if not re.fullmatch(r"\w[\w .+-]*", self.study):
            raise UserError(
                f"'{self.study}' is no name of a study: such a name begins with a letter or a digit and has no slash; give --name"
            )
        try:
            folder = Folder.of(self.store).at(self.study)
        except (OSError, ValueError) as error:
            raise UserError(f"the store {self.store} cannot be used ({error}): give another with --store DIR") from None
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "filesystem", folder.filesystem)
        object.__setattr__(self, "root", folder.path)

    def write(self, trial: str, attempt: int, tables: dict[str, list[dict]]) -> None:
        """Record one attempt: rows by table, `trials` holding one row, written last."""
        for table in sorted(tables, key=lambda name: name == "trials"):
            rows = [{"trial": trial, "attempt": attempt, **row} for row in tables[table]]
            if rows:
                self._write(f"{table}/{trial}-{attempt}.parquet", pa.Table.from_pylist(rows, _schema(table, rows[0])))

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        trials: list[str] | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """All rows of attempts that ended, or only those of some trials, or that meet a condition. Damaged files are passed
        over (see `set_aside_damaged`). A compaction that goes on meanwhile changes nothing in the answer.
        """
        while True:
            files = self.files(table, trials)
            found, sound = self.scan(table, files, columns, trials, where)
            if sound == files or self.files(table, trials) == files:  # else some were merged, and they are not damaged
                return found

    def scan(
        self,
        table: str,
        files: list[str],
        columns: list[str] | None = None,
        trials: list[str] | None = None,
        where: ds.Expression | None = None,
    ) -> tuple[pa.Table, list[str]]:
        """The rows of some files, and which of these could be read."""
        try:
            return self._open(table, files, trials, columns).to_table(columns=columns, filter=where), files
        except (pa.ArrowInvalid, OSError):
            sound = [file for file in files if self._sound(f"{self.root}/{table}/{file}")]
            return self._open(table, sound, trials, columns).to_table(columns=columns, filter=where), sound

    def dataset(self, table: str, trials: list[str] | None = None) -> ds.Dataset:
        """The same rows, to be scanned by columns and filters. Not to be kept while the study is compacted."""
        return self._open(table, self.files(table, trials), trials)

    def files(self, table: str, trials: list[str] | None = None) -> list[str]:
        """Names of the files whose rows count, or only those that may hold some trials."""
        wanted = None if trials is None else set(trials)
        while True:
            try:
                ended = self.names("trials")
                found = set(self.names(table)).intersection(ended)
                replaced = {name for file in ended if is_merged(file) for name in self.stands_for(file)}
                now = self.names("trials")
            except FileNotFoundError:  # merged once more
                continue
            if list(filter(is_merged, ended)) == list(filter(is_merged, now)):  # so that the lists go together
                return sorted(
                    file
                    for file in found - replaced
                    if wanted is None or is_merged(file) or _attempt(file)[0] in wanted
                )

    def stands_for(self, file: str) -> list[str]:
        """The names of the files that a merged one stands for; none if it is damaged."""
        try:
            metadata = pq.read_schema(f"{self.root}/trials/{file}", filesystem=self.filesystem).metadata
        except pa.ArrowInvalid:
            return []
        return json.loads(metadata[STANDS_FOR])

    def record(self, table: str, name: str, rows: list[dict]) -> None:
        """Write rows of one of RECORDS under a name of their own."""
        self._write(f"{table}/{name}.parquet", pa.Table.from_pylist(rows, RECORDS[table]))

    def records(self, table: str, start: str = "") -> list[dict]:
        """The rows of one of RECORDS whose names start so, by name. Damaged files are passed over."""
        rows = []
        for file in self.names(table):
            if file.startswith(start):
                with contextlib.suppress(pa.ArrowInvalid, OSError):
                    rows += pq.read_table(f"{self.root}/{table}/{file}", filesystem=self.filesystem).to_pylist()
        return rows

    def attempts(self) -> dict[str, int]:
        """Trials of which an attempt has ended (complete, failed or pruned), with the number of the last one."""
        files, found = self.files("trials"), {}
        files += [name for file in files if is_merged(file) for name in self.stands_for(file)]
        for trial, attempt in (_attempt(file) for file in files if not is_merged(file)):
            found[trial] = max(found.get(trial, 0), attempt)
        return found

    def last(self, columns: list[str] | None = None) -> list[dict]:
        """The row of each trial's last attempt."""
        columns = columns and sorted({*columns, "trial", "attempt"})
        rows = sorted(self.read("trials", columns).to_pylist(), key=lambda row: row["attempt"])
        return list({row["trial"]: row for row in rows}.values())

    def set_aside_damaged(self) -> list[str]:
        """Move files that are not readable Parquet, with their whole attempt, to `damaged/`; return their paths.

        The attempt then counts as never made, so its trial runs again.
        """
        damaged = [
            f"{table}/{file}"
            for table in SCHEMAS
            for file in self.files(table)
            if not self._sound(f"{self.root}/{table}/{file}")
        ]
        for file in {path.split("/")[1] for path in damaged}:
            for table in SCHEMAS:  # `trials` first: without its row the rest no longer counts
                self.folder.move(f"{table}/{file}", f"damaged/{table}/{file}")
        return [f"{self.root}/{path}" for path in damaged]

    def definition(self) -> dict | None:
        """The study's desired state, as `run` wrote it last; None if the study does not exist."""
        content = self.folder.read("study.json")
        return None if content is None else json.loads(content)

    def defined(self) -> bool:
        """Whether the study exists."""
        return self.folder.exists("study.json")

    def define(self, definition: dict) -> None:
        """Write the desired state. Raises UserError if the store cannot be written."""
        try:
            self.folder.write("study.json", json.dumps(definition, indent=1).encode())
        except OSError as error:
            raise UserError(
                f"the store {self.store} cannot be written ({error}): give another with --store DIR"
            ) from None

    def _write(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.folder.write(path, sink.getvalue())

    def names(self, table: str) -> list[str]:
        found = self.filesystem.get_file_info(pafs.FileSelector(f"{self.root}/{table}", allow_not_found=True))
        return sorted(info.base_name for info in found if info.base_name.endswith(".parquet"))

    def _sound(self, path: str) -> bool:
        try:
            pq.read_table(path, filesystem=self.filesystem)
        except (pa.ArrowInvalid, OSError):
            return False
        return True

    def _open(
        self, table: str, files: list[str], trials: list[str] | None, columns: list[str] | None = None
    ) -> ds.Dataset:
        schema = SCHEMAS[table]  # columns that an earlier version did not write are empty
        paths = [f"{self.root}/{table}/{file}" for file in files]
        if not paths:
            return ds.dataset(schema.empty_table())
        if table == "trials" and not (columns and set(columns) <= set(schema.names)):
            # The leaves of the configuration may differ between versions.
            schema = pa.unify_schemas([schema, *self._schemas(paths)])
        data = ds.dataset(paths, filesystem=self.filesystem, format="parquet", schema=schema)
        some = trials is not None and any(map(is_merged, files))
        return data.filter(ds.field("trial").isin(pa.array(trials, pa.string()))) if some else data

    def _schemas(self, paths: list[str]) -> list[pa.Schema]:
        """The distinct schemas of files."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda path: pq.read_schema(path, filesystem=self.filesystem).remove_metadata(), paths)
            return list(dict.fromkeys(found))


class Latest:
    """The row of each trial's last attempt, again and again: files never change, so that only new ones are read."""

    def __init__(self, ledger: Ledger, columns: list[str]):
        self.ledger, self.columns = ledger, sorted({*columns, "trial", "attempt"})
        self._read: set[str] = set()
        self._rows: dict[str, dict] = {}

    def rows(self) -> dict[str, dict]:
        """By trial. Damaged files are passed over."""
        fresh = [file for file in self.ledger.files("trials") if file not in self._read]
        if fresh:
            found, sound = self.ledger.scan("trials", fresh, self.columns)
            self._read.update(sound)
            for row in found.to_pylist():
                if row["attempt"] >= self._rows.get(row["trial"], row)["attempt"]:
                    self._rows[row["trial"]] = row
        return dict(self._rows)


def _schema(table: str, row: dict) -> pa.Schema:
    schema = SCHEMAS[table]
    kinds = {bool: pa.bool_(), int: pa.float64(), float: pa.float64()}  # a number may be whole in one trial only
    for key, value in row.items():
        if key.startswith("config_"):
            schema = schema.append(pa.field(key, kinds.get(type(value), pa.string())))
    return schema


def existing(store: str, study: str) -> Ledger:
    """The ledger of a study. Raises UserError if the store does not hold it."""
    ledger = Ledger(store, study)
    if not ledger.defined():
        raise UserError(
            f"there is no study '{study}' in the store {store}: `diffseg run {study}` starts one, --store DIR names another store"
        )
    return ledger


def is_merged(file: str) -> bool:
    return file.startswith(MERGED)


def _attempt(file: str) -> tuple[str, int]:
    """The trial and the attempt of a file's name."""
    trial, _, attempt = file.removesuffix(".parquet").rpartition("-")
    return trial, int(attempt)
