"""One trial in detail (`show`): a summary, and all that is known of it."""

import json
from collections.abc import Iterator

from rich.markup import escape

from diffseg.evaluation.registry import METRICS
from diffseg.rows import Row
from studies.commands.tables.cells import duration, number

SUMMARY_LINES = 8  # of the log, the last ones
LONGEST = 150  # characters of such a line
NOT_VALUES = ("config", "log_tail", "versions")


def summary_text(details: Row, differing: str) -> str:
    """Return the summary of a trial (`trial_details`): state, results, costs, error and the end of its log.

    differing: what distinguishes it from the study's other trials.
    """
    lines = [f"[bold]{escape(details['trial'])}[/]", *map(escape, _summarise(details, differing))]
    if log := details["log_tail"][-SUMMARY_LINES:]:
        lines += ["[bold]log[/], its last lines:", *(escape(f"  {_shorten(line)}") for line in log)]
    return "\n".join(
        [*lines, "--config shows its configuration and all else that is recorded, --follow its log as it grows."]
    )


def _shorten(line: str) -> str:
    """Return a line of a log without the end of what is long, such as a configuration."""
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def full_text(details: Row) -> str:
    """Return all that is known of a trial (`trial_details`): every recorded value, the configuration, the end of its log."""
    values = {key: value for key, value in details.items() if key not in NOT_VALUES}
    lines = [f"[bold]{key}[/]: {escape(str(value))}" for key, value in values.items() if value is not None]
    config, log = escape(json.dumps(details["config"], indent=1)), map(escape, details["log_tail"])
    return "\n".join([*lines, "[bold]config[/]:", config, "[bold]log[/]:", *log])


def _summarise(details: Row, differing: str) -> Iterator[str]:
    """Yield the sentences of the summary."""
    done = number(details["done"], ".0%")
    yield f"status: {details['status']}, attempt {details['attempt']}" + (
        f", {done} of its training done" if done else ""
    )
    if differing:
        yield f"what differs: {differing}"
    metrics = [f"{name} {text}" for name in METRICS if (text := number(details.get(name), ".3f"))]
    if metrics:
        yield f"{details['scored_on']} images: {', '.join(metrics)}"
    if (seconds := details.get("seconds")) is not None:
        parts = [f"{word} {duration(details[key])}" for word, key in
                 (("training", "train_seconds"), ("evaluation", "evaluate_seconds")) if details.get(key) is not None]  # fmt: skip
        inner = f" ({', '.join(parts)})" if parts else ""
        device = f" on {details['device']}" if details.get("device") else ""
        memory = f", at most {details['peak_memory_bytes'] / 2**30:.1f} GiB" if details.get("peak_memory_bytes") else ""
        yield f"took {duration(seconds)}{inner}{device}{memory}"
    if details.get("error"):
        yield f"error: {details['error']}"
    if details.get("log"):
        yield f"log file: {details['log']}"
