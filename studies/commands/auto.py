"""The command from a folder to a network: `auto`."""

import contextlib
import math
import shlex
import time
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from diffseg.errors import UserError
from studies.commands.options import Placement, data_option, placement_options, settings_argument, store_option
from studies.commands.output import finish, path_beside, progress_bar
from studies.commands.requests import command_line, parse_settings

if TYPE_CHECKING:
    from studies.auto.record import Record
    from studies.engine.resources import Resources
    from studies.store.ledger import Ledger

HOURS = 4.0  # that all of it may take

hours_option = click.option(
    "--hours", type=click.FloatRange(min=0.05), help="Auto: hours that all of it may take.  [default: 4]"
)
metric_option = click.option(
    "--metric", help="Auto: metric by which the search chooses and the network is named.  [default: iou]"
)


@dataclass(frozen=True)
class CommandLine:
    """What the command line of `auto` or `plan auto` says."""

    settings: tuple[str, ...]  # KEY=VALUE
    store: str
    roots: dict[str, str]  # of data sets, by name
    name: str | None  # in the store; None: auto-NAME
    hours: float | None
    metric: str | None
    placement: Placement


@click.command()
@settings_argument
@store_option
@data_option
@click.option("--name", help="Name of the study in the store.  [default: auto-NAME]")
@hours_option
@metric_option
@placement_options
def auto(
    settings: tuple[str, ...],
    store: str,
    roots: dict[str, str],
    name: str | None,
    hours: float | None,
    metric: str | None,
    placement: Placement,
) -> None:
    """Look at a data set, plan, train, compare, and name the network to use.

    Checks the data, times this machine, and prints a plan with a reason for each choice. Then trains plain segmentation
    and diffusion, the paper's ε-target, nnU-Net where the hours allow, and a search with what is left, whose best is
    confirmed by fresh seeds. They are studies like any other: the same command resumes them. KEY=VALUE overrides what is
    planned. `diffseg plan auto` shows the plan and runs nothing.

    Example: diffseg auto --data mine=/data/my-folder --hours 8
    """
    record, ledger = _prepare(CommandLine(settings, store, roots, name, hours, metric, placement))
    _run(record, ledger, placement)


def show_plan(asked: CommandLine) -> None:
    """Print what `auto` would do, and run nothing."""
    from studies.auto.planner import preview
    from studies.auto.stages import describe_stages, pretend, read_used

    record, _ = _prepare(asked)
    whole = preview(record)
    for line in describe_stages(whole):
        click.echo(line)
    click.echo(f"About {read_used(whole, pretend(whole)) / 3600:.2g} of {record.request.hours:g} h would be used.")


def _prepare(asked: CommandLine) -> "tuple[Record, Ledger]":
    """Return the record of the requested study, as it was stored or planned anew, and its ledger; and print the plan."""
    from diffseg.evaluation.registry import METRICS
    from diffseg.suggestions import did_you_mean
    from studies.auto.planner import make_plan
    from studies.auto.record import Request, read_record
    from studies.store.ledger import Ledger

    if len(asked.roots) != 1:
        raise UserError(f"auto plans for one data set, but {len(asked.roots)} are given: give --data NAME=ROOT once")
    if asked.placement["workers"] != 1:
        raise UserError("auto trains each trial on one worker: leave out --workers")
    metric = asked.metric or "iou"
    if metric not in METRICS:
        raise UserError(
            f"there is no metric '{metric}'{did_you_mean(metric, METRICS)}: allowed are {', '.join(METRICS)}"
        )
    ((data, root),) = asked.roots.items()
    given = parse_settings(asked.settings)
    request = Request(data, root, asked.hours or HOURS, metric, given, asked.placement["cpus"], asked.placement["gpus"])
    ledger = Ledger(asked.store, asked.name or f"auto-{data}")
    record = read_record(ledger, request)
    if record is None:
        record = make_plan(request, asked.store, progress_bar, partial(click.echo, err=True))
    for chosen, reason in record.choices:
        shown = ", ".join(f"{key}={'…' if key == 'diffusion.profile' else value}" for key, value in chosen.items())
        click.echo(f"{shown}: {reason}")
    for path, value in given.items():
        click.echo(f"{path}={value}: as given")
    return record, ledger


def _run(record: "Record", ledger: "Ledger", placement: Placement) -> None:
    """Run the stages, each planned when the one before it has ended; then write the report, and name the network to use."""
    from studies.auto.planner import SMALL, build_stages, estimate_nnunet_step, read_rows
    from studies.auto.record import write_record
    from studies.auto.stages import describe_stages, next_stage
    from studies.engine.resources import Resources
    from studies.store.ledger import Ledger

    small, step = Ledger(ledger.store, f"{ledger.study}-{SMALL}"), estimate_nnunet_step(record)
    before, begin = record.elapsed or record.planning, time.perf_counter()
    while True:
        if record.stages:
            record = _run_last_stage(record, ledger, small, Resources(**placement))
            record = replace(record, elapsed=before + time.perf_counter() - begin)
        found = next_stage(record, read_rows(record, ledger, small), step)
        write_record(ledger, found or record)
        if found is None:
            break
        record = found
        click.echo(describe_stages(record)[-1])
    study = build_stages(record, ledger.study, command_line())
    if study is None:
        raise UserError(f"only the small trials were run, since {dict(record.skipped)['planned']}")
    _print_answers(ledger)
    _name_network(record, ledger)
    finish(study, ledger, finished=True, with_report=True)


def _run_last_stage(record: "Record", ledger: "Ledger", small: "Ledger", resources: "Resources") -> "Record":
    """Run what the stage that began last lacks, and return the record; exit if the session is stopped.

    A search without prospect is withdrawn from the record, and does not end the others.
    """
    from studies.auto.planner import SMALL, build_stage, build_stages
    from studies.engine.session import run as run_session

    stage = record.stages[-1]
    if stage.name == SMALL:
        study, own = build_stage(record, stage, small.study, command_line()), small
    else:
        whole = build_stages(record, ledger.study, command_line())
        assert whole is not None
        study, own = whole, ledger
    try:
        finished = run_session(study, own, resources)
    except UserError as error:
        if stage.name != "search":
            raise
        click.echo(f"the search ends: {error}", err=True)
        return record.withdraw("search", str(error))
    if not finished:
        finish(study, own, finished=False, with_report=False)
    if stage.name == SMALL:
        _report_small(small)
    return record


def _report_small(ledger: "Ledger") -> None:
    """Write the report of the small trials, the first answer, and print its place."""
    from analysis.report import write_report

    with contextlib.suppress(UserError):  # if none of them is complete
        click.echo(write_report([ledger], path_beside(ledger, "report.html")))


def _print_answers(ledger: "Ledger") -> None:
    """Print what the study found, in the sentences of the report's first screen."""
    from analysis import tables
    from analysis.answers import answer_questions
    from analysis.comparison import compare_table1

    with contextlib.suppress(UserError):  # if no trial is complete
        found = tables.load([ledger])
        tested, _ = compare_table1(found, found.shown())
        for answer in answer_questions(found, tested):
            click.echo("\n".join(answer.sentences))


def _name_network(record: "Record", ledger: "Ledger") -> None:
    """Print the trial to use: of the configurations that were scored on the test images, the best one's first seed."""
    from diffseg.evaluation.registry import METRICS

    metric = METRICS[record.request.metric]
    columns = ["status", "scored_on", "configuration", "seed", metric.name]
    known = ledger.last_rows(columns) if ledger.is_defined() else []
    rows = [row for row in known if row["status"] == "complete" and row["scored_on"] == "test"]
    measured = [row for row in rows if row[metric.name] is not None and not math.isnan(row[metric.name])]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in measured:
        groups.setdefault(row["configuration"], []).append(row)
    if not groups:
        return
    best = min(groups.values(), key=lambda own: metric.loss(fmean(row[metric.name] for row in own)))
    trial, mean = min(best, key=lambda row: row["seed"])["trial"], fmean(row[metric.name] for row in best)
    click.echo(
        f"Use {trial}: of {len(groups)} configurations it has the best {metric.title} on the test images, {mean:.3f}. "
        "They chose it, so expect a little less of new images."
    )
    place = "" if ledger.store == "results" else f" --store {shlex.quote(ledger.store)}"
    click.echo(f"diffseg predict {ledger.study} {trial} my-images/{place}")
