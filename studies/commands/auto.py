"""The command from a folder to a network: `auto`."""

import math
import shlex
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from diffseg.errors import UserError
from studies.commands.options import Placement, data_option, placement_options, settings_argument, store_option
from studies.commands.output import finish, progress_bar
from studies.commands.requests import command_line, parse_settings

if TYPE_CHECKING:
    from studies.auto.record import Record
    from studies.store.ledger import Ledger

HOURS = 4.0  # that all of it may take

hours_option = click.option(
    "--hours", type=click.FloatRange(min=0.05), help="Auto: hours that all of it may take.  [default: 4]"
)
metric_option = click.option(
    "--metric", help="Auto: metric by which the search chooses and the network is named.  [default: iou]"
)


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
    confirmed by fresh seeds. It is a study like any other: the same command resumes it. KEY=VALUE overrides what is
    planned. `diffseg plan auto` shows the plan and runs nothing.

    Example: diffseg auto --data mine=/data/my-folder --hours 8
    """
    from studies.auto.record import write_record

    record, ledger = _prepare(settings, store, roots, name, hours, metric, placement)
    write_record(ledger, record)
    _run(record, ledger, placement)


def show_plan(
    settings: tuple[str, ...],
    store: str,
    roots: dict[str, str],
    name: str | None,
    hours: float | None,
    metric: str | None,
    placement: Placement,
) -> None:
    """Print what `auto` would do, and run nothing."""
    from studies.auto.planner import estimate_nnunet_step
    from studies.auto.stages import describe_stages, next_stage, pretend_rows

    record, _ = _prepare(settings, store, roots, name, hours, metric, placement)
    step = estimate_nnunet_step(record) if placement["workers"] == 1 else None
    while found := next_stage(record, pretend_rows(record), step):
        record = found
    for line in describe_stages(record):
        click.echo(line)


def _prepare(
    settings: tuple[str, ...],
    store: str,
    roots: dict[str, str],
    name: str | None,
    hours: float | None,
    metric: str | None,
    placement: Placement,
) -> "tuple[Record, Ledger]":
    """Return the record of the requested study, as it was stored or planned anew, and its ledger; and print the plan."""
    from diffseg.evaluation.registry import METRICS
    from diffseg.suggestions import did_you_mean
    from studies.auto.planner import make_plan
    from studies.auto.record import Request, read_record
    from studies.engine.resources import Resources
    from studies.store.ledger import Ledger

    if len(roots) != 1:
        raise UserError(f"auto plans for one data set, but {len(roots)} are given: give --data NAME=ROOT once")
    metric = metric or "iou"
    if metric not in METRICS:
        raise UserError(
            f"there is no metric '{metric}'{did_you_mean(metric, METRICS)}: allowed are {', '.join(METRICS)}"
        )
    ((data, root),) = roots.items()
    request = Request(data, root, hours or HOURS, metric, parse_settings(settings))
    ledger = Ledger(store, name or f"auto-{data}")
    record = read_record(ledger, request)
    if record is None:
        say = partial(click.echo, err=True)
        record = make_plan(request, store, Resources(**placement), progress_bar, say)
    for chosen, reason in record.choices:
        shown = ", ".join(f"{key}={'…' if key == 'diffusion.profile' else value}" for key, value in chosen.items())
        click.echo(f"{shown}: {reason}")
    for path, value in request.settings.items():
        click.echo(f"{path}={value}: as given")
    return record, ledger


def _run(record: "Record", ledger: "Ledger", placement: Placement) -> None:
    """Run the stages, each planned when the one before it has ended; then write the report, and name the network to use."""
    from studies.auto.planner import build_stages, estimate_nnunet_step
    from studies.auto.record import write_record
    from studies.auto.stages import describe_stages, next_stage
    from studies.engine.resources import Resources
    from studies.engine.session import run as run_session

    step = estimate_nnunet_step(record) if placement["workers"] == 1 else None
    study, finished = None, True
    while True:
        if record.stages:
            study = build_stages(record, ledger.study, command_line())
            finished = run_session(study, ledger, Resources(**placement))
        rows = ledger.last_rows(["seconds", "finished"])
        found = next_stage(record, rows, step) if finished else None
        if found is None:
            break
        record = found
        write_record(ledger, record)
        click.echo(describe_stages(record)[-1])
    assert study is not None  # the first stage is never left out
    if finished:
        _name_network(record, ledger)
    finish(study, ledger, finished, with_report=True)


def _name_network(record: "Record", ledger: "Ledger") -> None:
    """Print the trial to use: of the configurations that were scored on the test images, the best one's first seed."""
    from diffseg.evaluation.registry import METRICS

    metric = METRICS[record.request.metric]
    columns = ["status", "scored_on", "configuration", "seed", metric.name, "config_data_size", "test_images"]
    rows = [row for row in ledger.last_rows(columns) if row["status"] == "complete" and row["scored_on"] == "test"]
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
        "They chose it, so expect a little less of new images; the report says which differences are more than chance."
    )
    place = "" if ledger.store == "results" else f" --store {shlex.quote(ledger.store)}"
    click.echo(f"diffseg predict {ledger.study} {trial} my-images/{place}")
