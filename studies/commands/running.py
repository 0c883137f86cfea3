"""Commands that run studies: `run`, `plan`, `retry`, `stop`, `compact`."""

from typing import TYPE_CHECKING

import click

from diffseg.errors import UserError
from diffseg.nouns import noun
from studies.commands.auto import CommandLine, hours_option, metric_option, show_plan
from studies.commands.options import (
    Placement,
    address_option,
    json_option,
    placement_options,
    store_option,
    study_argument,
    study_options,
)
from studies.commands.output import finish, show
from studies.commands.requests import StudyRequest, open_study, requested_study

if TYPE_CHECKING:
    from studies.definition.study import Study
    from studies.engine.resources import Resources


@click.command()
@study_options
@click.option("--extend", is_flag=True, help="Add trials to a study that exists with another definition.")
@address_option
@click.option("--report/--no-report", default=True, help="Write the report at the end.  [default: --report]")
def run(
    request: StudyRequest,
    placement: Placement,
    concurrency: int | None,
    extend: bool,
    address: str | None,
    report: bool,
) -> None:
    """Start, resume or extend a study.

    Runs the trials that the store lacks. STUDY is a shipped study (quickstart, paper, search), a TOML file, or the name
    of a study in the store. KEY=VALUE sets any leaf of the configuration in all trials.

    Example: diffseg run paper --data isic16=/data/isic16 training.steps=100
    """
    from studies.engine.session import run as run_session

    study, ledger = requested_study(request, extend)
    finished = run_session(study, ledger, _resources(study, placement, concurrency), address=address)
    finish(study, ledger, finished, report)


@click.command()
@study_options
@hours_option
@metric_option
@json_option
def plan(
    request: StudyRequest,
    placement: Placement,
    concurrency: int | None,
    hours: float | None,
    metric: str | None,
    as_json: bool,
) -> None:
    """Show what `run` would do, and about how long it takes.

    The table lists the missing trials with their cost, and says how many would run side by side on this machine. `plan
    auto` shows what `auto` would do, with the reasons.
    """
    if request.source == "auto":
        if request.experiments or request.search or concurrency or as_json:
            raise UserError(
                "`diffseg plan auto` takes --data, --hours, --metric, --name, --cpus, --gpus and settings: leave out others"
            )
        asked = CommandLine(request.settings, request.store, request.roots, request.name, hours, metric, placement)
        return show_plan(asked)
    if hours is not None or metric is not None:
        raise UserError(f"--hours and --metric are options of `diffseg plan auto`: leave them out for {request.source}")
    from studies.commands.tables.estimates import plan_table
    from studies.planning.plan import plan as plan_study

    study, ledger = requested_study(request, extend=True)
    show(plan_study(study, ledger, _resources(study, placement, concurrency)), as_json, plan_table)


@click.command()
@study_argument
@store_option
@placement_options
@address_option
def retry(study: str, store: str, placement: Placement, address: str | None) -> None:
    """Run the trials again that failed, and those that are missing."""
    from studies.engine.session import run as run_session

    definition, ledger = open_study(study, store)
    finished = run_session(definition, ledger, _resources(definition, placement), retry=True, address=address)
    finish(definition, ledger, finished, with_report=True)


@click.command()
@study_argument
@store_option
def stop(study: str, store: str) -> None:
    """Stop the session that runs a study, wherever it runs.

    Its trials write checkpoints, and `diffseg run` resumes from them.
    """
    from studies.engine.files import STOP
    from studies.store.ledger import open_ledger
    from studies.store.lock import Lock

    ledger = open_ledger(store, study)
    if not Lock(ledger.folder).is_held():
        raise UserError(f"no session runs {study} in the store {store}")
    ledger.folder.write(STOP, b"")
    click.echo(f"{study} stops: its trials write checkpoints, which takes seconds, or as long as a running evaluation")


@click.command()
@study_argument
@store_option
def compact(study: str, store: str) -> None:
    """Merge the many small files of a study, to read it faster.

    Every table becomes one file. Nothing is lost if the command is stopped.
    """
    from studies.store.compaction import compact as merge
    from studies.store.ledger import open_ledger

    count = merge(open_ledger(store, study))
    merged = f"{count} {noun(count, 'attempt')} of {study} {noun(count, 'was', 'were')} merged"
    click.echo(merged if count else f"{study} has nothing left to merge")


def _resources(study: "Study", placement: Placement, concurrency: int | None = None) -> "Resources":
    """Return the resources of each trial, and the limit of trials side by side: the given one, or else the search's."""
    from studies.engine.resources import Resources

    limit = concurrency or (study.search.concurrency if study.search else None)
    return Resources(**placement, concurrency=limit)
