"""The type of a table's row, before it is written to the ledger."""

from typing import Any

Row = dict[str, Any]  # column name to value; a table's columns differ in type
