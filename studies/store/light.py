"""Importing pyarrow without numpy and pandas, which `status` does not need.

pyarrow imports numpy with itself, 0.1 s, and pandas at its first value, 0.2 s, to recognise values of theirs.
"""

import sys

HIDDEN = ("numpy", "pandas")


def import_pyarrow() -> None:
    """Import pyarrow and make its first value while numpy and pandas cannot be found.

    In this process pyarrow then refuses arrays of numpy. `to_pandas` and the like still import pandas. A module that was
    imported before is not hidden.
    """
    finder = _Without({name for name in HIDDEN if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.parquet

        pyarrow.scalar(True)
    finally:
        sys.meta_path.remove(finder)


class _Without:
    """A finder of modules that refuses some."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ImportError for a refused module, and leave all others to other finders."""
        if name in self.names:
            raise ImportError(f"{name} is not looked for")
