"""pyarrow without pandas, which it imports at its first value, for 0.2 s, to see whether that is one of pandas' own."""

import sys


def import_pyarrow() -> None:
    """Let pyarrow find no pandas at its first value. What needs pandas, such as `to_pandas`, still imports it."""
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        import pyarrow

        pyarrow.scalar(True)
    finally:
        sys.meta_path.remove(_WithoutPandas)


class _WithoutPandas:
    """A finder of modules that finds no pandas."""

    @staticmethod
    def find_spec(name, path=None, target=None) -> None:
        if name == "pandas":
            raise ImportError("pandas is not looked for")
