"""Names of studies and trials, which become names of files and folders on every file system that may hold a store."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from diffseg.errors import UserError

FILE_NAME = 255  # bytes in UTF-8 of the longest file name in common file systems
PATH = 4096  # bytes of the longest path
BELOW = 700  # bytes of a path that are kept for what lies in a study's folder, Ray's own files included
OF_STUDY = "-dashboard.journal"  # the longest ending of a file that is named after a study
OF_TRIAL = "-000000.parquet.0123456789abcdef"  # the longest ending of a file that is named after a trial
OF_RUNG = "-00000000-.parquet"  # a rung's file is named after two trials: the start of the search and the trial itself
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def check_study(name: str, root: Path | None) -> None:
    """Check the name of a study. `root` is its folder in a local store, None behind a URI.

    Raises UserError if the name has characters that some file system does not take, or is too long.
    """
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(
            f"'{_shorten(name)}' is not a valid study name: a name begins with a letter or a digit, and has letters, digits, "
            "spaces and . + - _ only, no slash; give --name"
        )
    if name[-1] in " .":
        raise UserError(f"'{_shorten(name)}' is not a valid study name: it ends with a space or a dot; give --name")
    if name.partition(".")[0].strip().lower() in RESERVED:
        raise UserError(f"'{_shorten(name)}' is not a valid study name: Windows reserves it for a device; give --name")
    most = _longest_file_name(root) - len(OF_STUDY)
    if (size := len(name.encode())) > most:
        raise UserError(f"the study's name '{_shorten(name)}' has {size} bytes, but at most {most} fit: give --name")
    if root and (size := len(os.fsencode(root))) > PATH - BELOW:
        raise UserError(
            f"the study's folder has a path of {size} bytes ({_shorten(str(root))}), but at most {PATH - BELOW} fit: "
            "give another --store DIR"
        )


def check_trials(trials: Iterable[str], starts: Iterable[str]) -> None:
    """Check the names of trials, and of the trials that searches start from. Raises UserError if one is too long."""
    for names, most in ((trials, FILE_NAME - len(OF_TRIAL)), (starts, (FILE_NAME - len(OF_RUNG) - 8) // 2)):
        for name in names:
            if (size := len(name.encode())) > most:
                raise UserError(
                    f"the trial's name '{_shorten(name)}' has {size} bytes, but at most {most} fit, since files are named after "
                    "it: give its data set (data.name) a shorter name, or inference.seeds fewer seeds"
                )


def log_name(trial: str) -> str:
    """Return the path of a trial's log within its study's folder."""
    return f"work/{trial}/log.txt"


def _longest_file_name(root: Path | None) -> int:
    """Return how many bytes a file name may have in a folder's file system. The folder need not exist."""
    for folder in root.parents if root else ():
        try:
            return min(FILE_NAME, os.pathconf(folder, "PC_NAME_MAX"))
        except (OSError, ValueError):
            continue
    return FILE_NAME


def _shorten(name: str) -> str:
    """Return a name on one line, shortened if it is long."""
    shown = name if len(name) <= 60 else f"{name[:40]}…{name[-15:]}"
    return shown.encode("unicode_escape").decode() if not shown.isprintable() else shown
