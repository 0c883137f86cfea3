"""The Parquet files of a ledger's tables: which there are, and which of them count."""

import logging
from dataclasses import dataclass, field

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from studies.store import validity
from studies.store.folder import Folder
from studies.store.outages import read_errors
from studies.store.tables import SCHEMAS
from studies.store.validity import READ_ERRORS, InvalidFile, is_merged, parse_attempt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFiles:
    """The files below a study's folder, one subfolder for each table."""

    folder: Folder
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The file system that the tables lie on."""
        return self.folder.filesystem

    def path(self, table: str, file: str) -> str:
        """Return a file's path in the file system."""
        return f"{self.folder.path}/{table}/{file}"

    def parquet_names(self, table: str) -> list[str]:
        """Return the names of a table's Parquet files, sorted, without hidden ones."""
        named = [(info.base_name, info) for info in self._entries(table)]
        return sorted(
            name
            for name, info in named
            if name.endswith(".parquet") and name[0] != "." and info.type == pafs.FileType.File
        )

    def attempt_names(self, table: str) -> list[str]:
        """Return the names of a table's files that are named after an attempt or as merged files are."""
        return [name for name in self.parquet_names(table) if validity.is_ledger_name(name)]

    def foreign_names(self, table: str) -> list[str]:
        """Return the names of what lies in a table's folder and is no file of the table. Hidden files are ignored."""
        known = set(self.attempt_names(table) if table in SCHEMAS else self.parquet_names(table))
        every = {info.base_name for info in self._entries(table) if info.base_name[:1] not in (".", "")}
        return sorted(every - known)

    def _entries(self, table: str) -> list[pafs.FileInfo]:
        try:
            with read_errors(self.folder.path):
                selector = pafs.FileSelector(f"{self.folder.path}/{table}", allow_not_found=True)
                return list(self.filesystem.get_file_info(selector))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def counted_names(self, table: str, trials: list[str] | None = None) -> list[str]:
        """Return the names of the files whose rows count, or only of those that may hold rows of some trials.

        A file counts if its attempt has a row in `trials` and no merged file has replaced it.
        """
        wanted = None if trials is None else set(trials)
        while True:
            try:
                ended = self.attempt_names("trials")
                found = set(ended if table == "trials" else self.attempt_names(table)).intersection(ended)
                replaced = self._replaced(ended)
                now = self.attempt_names("trials")
            except FileNotFoundError:  # a compaction has merged files once more
                continue
            if list(filter(is_merged, ended)) == list(
                filter(is_merged, now)
            ):  # else the lists are of different moments
                return sorted(
                    file for file in found - replaced if wanted is None or is_merged(file) or _trial(file) in wanted
                )

    def _replaced(self, ended: list[str]) -> set[str]:
        """Return the files that merged ones replace, and merged ones that replace the same files as another."""
        merged = {file: set(self.replaced_by(file)) for file in sorted(filter(is_merged, ended))}
        replaced = {name for names in merged.values() for name in names}
        kept: set[str] = set()
        for file, names in merged.items():
            if file not in replaced and kept & names:
                replaced.add(file)
                self.warn_skipped(f"trials/{file}", "it stands for the same attempts as another file")
            elif file not in replaced:
                kept |= names
        return replaced

    def replaced_by(self, file: str) -> list[str]:
        """Return the names of the files that a merged file of `trials` replaces; none if it is damaged."""
        try:
            with read_errors(self.folder.path):
                metadata = pq.read_schema(self.path("trials", file), filesystem=self.filesystem).metadata
            return validity.replaced_names(metadata)
        except FileNotFoundError:
            raise
        except READ_ERRORS:
            self._check_readable(f"trials/{file}")
            return []

    def replaced_by_merged(self) -> set[str]:
        """Return the names of all files that merged files of `trials` replace."""
        return {name for file in self.attempt_names("trials") if is_merged(file) for name in self.replaced_by(file)}

    def describe_fault(self, path: str, error: Exception) -> str:
        """Return what is wrong with a file, as a clause. Raises StoreError if it is the store that is out of reach."""
        if isinstance(error, InvalidFile):
            return str(error)
        if isinstance(error, FileNotFoundError):
            return "it is gone"
        self._check_readable(path)
        return f"it is not readable as the table's ({' '.join(str(error).split())[:120]})"

    def _check_readable(self, path: str) -> None:
        """Raise StoreError unless the bytes of a file can be read, whatever they mean."""
        try:
            with (
                read_errors(self.folder.path),
                self.filesystem.open_input_stream(f"{self.folder.path}/{path}") as file,
            ):
                while file.read(1 << 24):
                    pass
        except (FileNotFoundError, NotADirectoryError):
            return

    def warn_skipped(self, path: str, reason: str) -> None:
        """Warn, once for each file, that a file is not read."""
        if path not in self._warned:
            self._warned.add(path)
            root = self.folder.path
            log.warning("%s/%s is skipped, since %s: the next `diffseg run` sets it aside", root, path, reason)


def _trial(file: str) -> str | None:
    attempt = parse_attempt(file)
    return attempt[0] if attempt else None
