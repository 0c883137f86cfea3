"""Rows of one class in the tables that have a column `class`."""

import pyarrow.dataset as ds

from studies.store.tables import SCHEMAS

ALL = "all"  # rows of all classes: the mean over them, or all at once; null in files of earlier versions


def has_classes(table: str) -> bool:
    """Return whether the rows of a table measure single classes, too."""
    return table in SCHEMAS and "class" in SCHEMAS[table].names


def of_class(name: str = ALL) -> ds.Expression:
    """Return the condition that a row measures a class, or all of them."""
    found = ds.field("class") == name
    return found | ds.field("class").is_null() if name == ALL else found
