"""Commands that free the disk: `clean` and `delete`."""

import sys
from typing import TYPE_CHECKING

import click

from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from studies.commands.options import NamedChoice, store_option, study_argument
from studies.commands.requests import open_study

if TYPE_CHECKING:
    from studies.engine.cleaning import Removal


def _parse_keep(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Parse best:N into N. Raises BadParameter if it is written otherwise."""
    if value is None:
        return None
    word, _, count = value.partition(":")
    if word != "best" or not (count.isascii() and count.isdecimal() and int(count)):
        raise click.BadParameter(f"got '{value}', but it takes best:N with N of 1 or more, such as --keep best:5")
    return int(count)


@click.command()
@study_argument
@store_option
@click.option(
    "--keep",
    callback=_parse_keep,
    metavar="best:N",
    help="Remove the networks of all trials that have ended but the best N of each data set.  [default: keep all]",
)
@click.option(
    "--metric",
    type=NamedChoice("metric", list(METRICS)),
    metavar="METRIC",
    help="Choose the best by this metric.  [default: iou, and for a search its ranking]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(study: str, store: str, keep: int | None, metric: str | None, dry_run: bool) -> None:
    """Remove files that neither results nor predictions need.

    These are checkpoints of trials that have ended, and temporary files that killed sessions left. With --keep also
    networks, except those that trials still to be run build on. Tables and logs stay, but `predict` needs the networks.

    Example: diffseg clean quickstart --keep best:1 --dry-run
    """
    from studies.engine.cleaning import plan_cleaning, remove
    from studies.store.lock import Lock

    if metric and keep is None:
        raise UserError("--metric chooses the networks that --keep best:N keeps: give --keep, too")
    definition, ledger = open_study(study, store)
    if dry_run:
        _report(study, plan_cleaning(definition, ledger, keep, metric), "would remove")
        return
    lock = Lock(ledger.folder)
    lock.acquire()
    try:
        planned = plan_cleaning(definition, ledger, keep, metric)
        removed = [done for removal in planned if (done := remove(ledger, removal))]
    finally:
        lock.release()
    _report(study, removed, "removed")


def _report(study: str, removals: "list[Removal]", did: str) -> None:
    """Print the number and the size of the files of each kind."""
    from studies.commands.tables.cells import bytes_text
    from studies.engine.cleaning import TEMPORARY

    if not removals:
        click.echo(f"{study} has nothing to clean")
    for kind in dict.fromkeys(removal.kind for removal in removals):
        own = [removal for removal in removals if removal.kind == kind]
        of = "" if kind == TEMPORARY else f" of {len(own)} trial{'s' if len(own) > 1 else ''}"
        files = sum(len(removal.files) for removal in own)
        size = bytes_text(sum(removal.size for removal in own))
        click.echo(f"{did} {kind}{of}: {size} in {files} file{'s' if files > 1 else ''}")


def is_terminal() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin.isatty()


@click.command()
@study_argument
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(study: str, store: str, yes: bool) -> None:
    """Delete a study: its results, networks and logs.

    Asks first. Nothing of the study can be restored.

    Example: diffseg delete quickstart
    """
    from studies.commands.tables.cells import bytes_text
    from studies.store.deletion import delete_study
    from studies.store.ledger import open_ledger

    ledger = open_ledger(store, study)
    if not yes:
        if not is_terminal():
            raise UserError(f"there is no terminal to ask at whether to delete {study}: give --yes")
        trials, size = len(ledger.last_attempts()), sum(ledger.folder.files().values())
        click.echo(
            f"{study} has {trials} trial{'' if trials == 1 else 's'} with results, {bytes_text(size)} in {ledger.root}"
        )
        if not click.confirm("Delete all of it?"):
            click.echo("nothing was deleted")
            return
    delete_study(ledger)
    click.echo(f"{study} was deleted")
