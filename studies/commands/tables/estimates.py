"""Costs of a study (`plan`), fingerprints (`fingerprint`) and the speed of this machine (`bench`)."""

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from diffseg.nouns import noun
from diffseg.rows import Row
from studies.commands.tables.cells import MOST_ROWS, bytes_text, duration_range, more_rows, number, plain_table
from studies.commands.tables.named_table import NamedTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

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
    """Return a row for each trial of a plan, what presets need, and sentences on the whole of it."""
    table = NamedTable("trial", "count", "time of each", remark="what differs")
    for row in plan["trials"][:MOST_ROWS]:
        count = str(row["count"]) if row["count"] > 1 else ""
        time = duration_range(*row["seconds"]) if row["missing"] else "done"
        table.add_row(row["trial"], count, time, remark=row["differs"])
    table.caption = more_rows(plan["trials"])
    samples = (_sample_table(plan["samples"]), "") if plan["samples"] else ()
    return Group(table, "", _preset_table(plan["trials"]), "", *samples, *map(escape, _plan_sentences(plan)))


def _sample_table(samples: list[Row]) -> NamedTable:
    """Return random proposals of each search, with their time or why they would be refused."""
    table = NamedTable("proposals such as", "time of each", remark="search")
    for row in samples:
        time = row["refused"] or duration_range(*row["seconds"])
        table.add_row(row["settings"], time, remark=row["search"])
    return table


def _preset_table(trials: list[Row]) -> NamedTable:
    """Return what a trial of each preset takes at most, and the trials of it that are to do."""
    table = NamedTable("preset", "to do", "parameters", "memory of each", "disk of each")
    for preset in dict.fromkeys(row["preset"] for row in trials):
        own = [row for row in trials if row["preset"] == preset]
        to_do = sum(row["count"] for row in own if row["missing"])
        most = {key: max(row[key] for row in own) for key in ("parameters", "memory", "disk")}
        table.add_row(
            preset, str(to_do), f"{most['parameters']:,}", bytes_text(most["memory"]), bytes_text(most["disk"])
        )
    return table


def _plan_sentences(plan: dict[str, Any]) -> list[str]:
    total = sum(row["count"] for row in plan["trials"])
    cpus, gpus = (f"{plan[key]:g} {noun(plan[key], name)}" for key, name in (("cpus", "CPU"), ("gpus", "GPU")))
    place = f"{plan['side_by_side']} side by side on this machine, each with {cpus} and {gpus}"
    lines = [
        f"{plan['missing']} of {total} {noun(total, 'trial')} to do, {place}: "
        f"{duration_range(*plan['seconds'])} of computing{', less what is pruned' if plan['pruning'] else ''}, "
        f"{bytes_text(plan['disk'])} of networks and checkpoints on disk, and up to {bytes_text(plan['memory'])} of memory a trial."
    ]
    if plan["left_out"]:
        options = " ".join(f"--data {name}=ROOT" for name in plan["left_out"])
        lines.append(f"Left out, since no root was given: {', '.join(plan['left_out'])} (add {options}).")
    lines += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in plan["ends"]]
    for sentence, names in plan["warnings"].items():
        lines.append(f"Mind that {sentence} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}).")
    return lines


def fingerprint_table(found: "dict[str, Fingerprint]") -> Group:
    """Return the sentences of the first fingerprint and its numbers at every second noise level.

    Args:
        found: Fingerprints by class. Of those after the first one, a line each says where the class is lost in the noise.
    """
    (name, first), *others = found.items()
    table = plain_table("t", "log-SNR", "error", "smooth", "derivative", "weight")
    levels = list(zip(*(getattr(first, column) for column in DIGITS), strict=True))
    for values in levels[1::2]:
        table.add_row(*(f"{value:.{digits}f}" for value, digits in zip(values, DIGITS.values(), strict=True)))
    if not others:
        of_class = [] if name == "all" else [f"Of the class {escape(name)}:"]
        return Group(*of_class, *first.describe(), table)
    return Group("Mean over the classes:", *first.describe(), "", *_class_lines(dict(others)), "", table)


def _class_lines(found: "dict[str, Fingerprint]") -> "Iterator[RenderableType]":
    """Yield a table with a line for each class, and a sentence on which of them is decided first."""
    from diffseg.fingerprint.classes import describe_order, summarise

    table = NamedTable("class", "nothing is lost", "half", "everything")
    for name, one in found.items():
        summary, cells = summarise(one), ["no rise with the noise", "", ""]
        if "half" in summary:
            cells = [_level(summary, landmark) for landmark in ("kept", "half", "lost")]
        table.add_row(name, *cells)
    yield "Log-SNR (and t) at which of each class"
    yield table
    if order := describe_order(found):
        yield escape(order)


def _level(summary: dict[str, Any], name: str) -> str:
    """Return a landmark of a fingerprint as its log-SNR and, within the schedule, its t in parentheses."""
    return f"{summary[name]:.1f} ({number(summary[f'{name}_t'], '.2f') or 'beyond'})"


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
