"""Importing pyarrow without pandas. At its first value pyarrow imports pandas, 0.2 s, to recognise values of pandas."""

import sys


def import_pyarrow() -> None:
    """Import pyarrow and make its first value while pandas cannot be found. `to_pandas` and the like still import pandas."""
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        import pyarrow

        pyarrow.scalar(True)
    finally:
        sys.meta_path.remove(_WithoutPandas)


class _WithoutPandas:
    """A finder of modules that refuses pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raise ImportError for pandas, and leave all other modules to other finders."""
        if name == "pandas":
            raise ImportError("pandas is not looked for")
