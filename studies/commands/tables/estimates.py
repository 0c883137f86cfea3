"""Costs of a study (`plan`), fingerprints (`fingerprint`) and the speed of this machine (`bench`)."""

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from studies.commands.tables.cells import duration, number, plain_table

if TYPE_CHECKING:
    from diffseg.fingerprint.curve import Fingerprint

DIGITS = {
    "t": 2,
    "log_snr": 1,
    "error": 3,
    "error_smooth": 3,
    "derivative": 3,
    "weight": 2,
}  # of a fingerprint's columns


def plan_table(plan: dict[str, Any]) -> Group:
    """Return a row for each trial of a plan, and sentences on the whole of it."""
    table = plain_table("trial", "count", "to do", "parameters", "memory up to", "about")
    for row in plan["trials"]:
        to_do, memory = "yes" if row["missing"] else "done", f"{row['memory'] / 2**30:.1f} GiB"
        counts = str(row["count"]), to_do, f"{row['parameters']:,}"
        table.add_row(escape(row["trial"]), *counts, memory, duration(row["seconds"]))
    return Group(table, *map(escape, _plan_sentences(plan)))


def _plan_sentences(plan: dict[str, Any]) -> list[str]:
    place = f"{plan['side_by_side']} side by side on this machine, each with {plan['cpus']:g} CPUs and {plan['gpus']:g} GPUs"
    lines = [
        f"{plan['missing']} of {sum(row['count'] for row in plan['trials'])} trials to do, {place}: "
        f"about {duration(plan['seconds'])} of computing{', less what is pruned' if plan['pruning'] else ''}."
    ]
    if plan["left_out"]:
        options = " ".join(f"--data {name}=ROOT" for name in plan["left_out"])
        lines.append(f"Left out, since no root was given: {', '.join(plan['left_out'])} (add {options}).")
    for sentence, names in plan["warnings"].items():
        lines.append(f"Mind that {sentence} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}).")
    return lines


def fingerprint_table(found: "Fingerprint") -> Group:
    """Return the sentences of a fingerprint, and the numbers of every second noise level."""
    table = plain_table("t", "log-SNR", "error", "smooth", "derivative", "weight")
    levels = list(zip(*(getattr(found, column) for column in DIGITS), strict=True))
    for values in levels[1::2]:
        table.add_row(*(f"{value:.{digits}f}" for value, digits in zip(values, DIGITS.values(), strict=True)))
    return Group(*found.describe(), table)


def speed_table(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each way of a benchmark (`diffseg.bench.harness.summarise`)."""
    table = plain_table("what", "of", "way", "ms", "ratio", "images/s", "of peak", "GiB")
    for row in rows:
        table.add_row(
            f"{row['subject']}, {row['network']}".rstrip(", "),
            row["detail"],
            row["way"],
            _scaled(row["seconds"], 1e-3, ".3g") or "does not fit into memory",
            number(row["ratio"], ".2f"),
            number(row["images_per_second"], ".3g"),
            number(row["peak_share"], ".0%"),
            _scaled(row["memory_bytes"], 2**30, ".2f"),
        )
    return table


def _scaled(value: float | None, unit: float, form: str) -> str:
    """Format a value in a unit; an empty string if it is missing or NaN."""
    return "" if value is None else number(value / unit, form)
