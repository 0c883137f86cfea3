"""Constraints of a search: what a trial may take at most, by the numbers that the ledger records of it.

    [search.constraints]
    parameters = 5e6       # of the network; counted before a trial trains
    memory = "12 GiB"      # peak on the GPU, as measured
    evaluate_seconds = 60
    ece = 0.05             # a metric of which less is better

A proposal whose trial exceeds a limit is never the best, nor confirmed. What its fidelities took does not count. Of several parts
that are held out, costs are those of the first, and metrics are means over all. A number that a trial does not record exceeds
nothing.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from diffseg.config import Config
from diffseg.config.sentences import shown
from diffseg.evaluation.registry import METRICS
from diffseg.suggestions import did_you_mean
from search_spaces import SpaceError
from studies.store.tables import SCHEMAS

ALIASES = {"memory": "peak_memory_bytes"}  # constraint → column of the ledger
OTHERS = ("attempt", "seed", "peak_memory_bytes")  # numeric columns that no constraint is on by their own name
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B\s*")
POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def allowed_constraints() -> list[str]:
    """Return the names of constraints: numeric columns of the ledger's trials of which less is better."""
    numbers = [field.name for field in SCHEMAS["trials"] if field.type in (pa.int64(), pa.float64())]
    larger = {name for name, metric in METRICS.items() if metric.larger_is_better}
    return [*ALIASES, *(name for name in numbers if name not in larger and name not in OTHERS)]


def column_of(constraint: str) -> str:
    """Return the column of the ledger's trials that a constraint is on."""
    return ALIASES.get(constraint, constraint)


def parse_constraints(value: Any) -> dict[str, float]:
    """Return the limits of a table [search.constraints]. Raises SpaceError in one sentence."""
    if not isinstance(value, dict):
        raise SpaceError("search.constraints", f"got {shown(value)}; allowed is a table such as {{ parameters = 5e6 }}")
    return {name: _parse_limit(name, limit) for name, limit in value.items()}


def _parse_limit(name: str, limit: Any) -> float:
    key, allowed = f"search.constraints.{name}", allowed_constraints()
    if name in METRICS and METRICS[name].larger_is_better:
        raise SpaceError(
            key, f"of {name} more is better, but a limit is what a trial may have at most; make it an objective"
        )
    if other := {column: alias for alias, column in ALIASES.items()}.get(name):
        raise SpaceError(key, f"this is limited as {other}; write search.constraints.{other}")
    if name not in allowed:
        raise SpaceError(
            key,
            f"no trial records {name[:80]} as a number to limit{did_you_mean(name, allowed)}; allowed are {', '.join(allowed)}",
        )
    if name == "memory" and isinstance(limit, str) and (size := SIZE.fullmatch(limit)):
        limit = float(size[1]) * (1024 if size[3] else 1000) ** POWERS[size[2]]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < math.inf:
        form = 'a number of bytes above 0, or a size such as "12 GiB"' if name == "memory" else "a number above 0"
        raise SpaceError(key, f"got {shown(limit)}; allowed is {form}")
    return float(limit)


def compute_excess(constraints: Mapping[str, float], row: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much a trial exceeds each limit, as a share of the limit; at most 0 if it keeps it."""
    return {name: _excess(row.get(column_of(name)), limit) for name, limit in constraints.items()}


def _excess(value: float | None, limit: float) -> float:
    return 0.0 if value is None or math.isnan(value) else value / limit - 1


def describe_violations(constraints: Mapping[str, float], row: Mapping[str, Any]) -> str:
    """Return the limits that a trial exceeds in words; an empty text without any."""
    exceeded = [name for name, excess in compute_excess(constraints, row).items() if excess > 0]
    return "; ".join(describe_violation(name, row[column_of(name)], constraints[name]) for name in exceeded)


def find_violation(constraints: Mapping[str, float], config: Config) -> str | None:
    """Return which constraint that can be checked before a trial trains a configuration violates; None if it violates none."""
    if "parameters" not in constraints:
        return None
    from studies.planning.estimate import count_parameters  # imports torch

    count, limit = count_parameters(config), constraints["parameters"]
    return describe_violation("parameters", count, limit) if count > limit else None


def describe_violation(name: str, value: float, limit: float) -> str:
    """Say that a value exceeds a limit."""
    return f"{name} {_number(value)}, but search.constraints allows {_number(limit)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
