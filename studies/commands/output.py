"""What commands print and where they write: JSON or tables, progress, files beside a study, the end of a session."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from diffseg.nouns import noun
from studies.commands.statuses import FAILED_TRIALS, STOPPED

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from studies.definition.study import Study
    from studies.store.ledger import Ledger

LEAST_WIDTH = 40  # characters, below which names would be cut
TABLE_WIDTH = 160  # characters, where a table goes to a file or another program and COLUMNS is not set
T = TypeVar("T")


def show(value: T, as_json: bool, render: "Callable[[T], RenderableType]") -> None:
    """Print a value as JSON, or as the text or table that `render` makes of it."""
    if as_json:
        click.echo(json.dumps(value, indent=1, default=str))
        return
    _print(_console(), render(value))


def watch_value(render: "Callable[[], RenderableType]", running: Iterator[bool]) -> None:
    """Print what `render` returns for every item of `running`: on a terminal in place of the last, else if it changed."""
    console, before = _console(), ""
    for _ in running:
        with console.capture() as capture:
            _print(console, render())
        if console.is_terminal:
            console.clear()
        if (text := capture.get()) != before or console.is_terminal:
            click.echo(text, nl=False)
        before = text


def _console() -> "Console":
    """Return the console of standard output, as wide as the terminal, or as COLUMNS or TABLE_WIDTH where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    given = os.environ.get("COLUMNS", "")
    if not console.is_terminal and not (given.isdigit() and int(given)):
        console.width = TABLE_WIDTH
    console.width = max(console.width, LEAST_WIDTH)
    return console


def _print(console: "Console", rendered: "RenderableType") -> None:
    """Print text or a table. Nothing is cut: a name may be longer than the terminal is wide."""
    console.print(rendered, soft_wrap=isinstance(rendered, str), crop=False)


@contextlib.contextmanager
def progress_bar(task: str, quiet: bool = False) -> Iterator[Callable[[int, int], Any]]:
    """Show a progress bar on standard error, or its task as one line if that is no terminal; nothing if `quiet`.

    The context is a function of (done, total). The line is printed when it is first called: mistakes are found before.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True, quiet=quiet)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        number, said = bar.add_task(task, total=None), quiet or console.is_terminal

        def report(done: int, total: int) -> None:
            nonlocal said
            if not said:
                click.echo(f"{task} …", err=True)
            said = True
            bar.update(number, completed=done, total=total)

        yield report


def path_beside(ledger: "Ledger", name: str) -> Path:
    """Return the path for a file made of a study: in its folder, or in the current one if the store is a URI."""
    return ledger.folder.local / name if ledger.folder.local else Path(f"{ledger.study}-{name}")


def finish(study: "Study", ledger: "Ledger", finished: bool, with_report: bool) -> None:
    """End a command that ran trials: write the report, and exit with a status if it was stopped or if trials failed."""
    from studies.search.stopping import explain_ends
    from studies.search.upcoming import count_requested
    from studies.store.state import count_statuses, trial_states

    if not finished:
        click.echo(f"stopped; the same command resumes from the last checkpoints ({ledger.root})", err=True)
        sys.exit(STOPPED)
    if with_report:
        from analysis.report import write_report

        click.echo(write_report([ledger], path_beside(ledger, "report.html")))
    for sentence in explain_ends(study, ledger):
        click.echo(sentence, err=True)
    found = trial_states(study, ledger)
    if failed := count_statuses(found)["failed"]:
        count = count_requested(study, ledger, len(found))
        click.echo(
            f"{failed} of {count} {noun(count, 'trial')} failed: `diffseg status {study.name}` names them, "
            f"`diffseg retry {study.name}` runs them again",
            err=True,
        )
        sys.exit(FAILED_TRIALS)
