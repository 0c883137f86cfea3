"""Commands that print results: `status`, `show`, `best`, `compare`."""

from typing import TYPE_CHECKING

import click

from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from studies.commands.options import NamedChoice, json_option, store_option, study_argument
from studies.commands.output import show as show_value
from studies.commands.output import watch_value
from studies.commands.requests import open_study

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@study_argument
@store_option
@json_option
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until no session runs the study.")
@click.option("--size", is_flag=True, help="Show the disk that each trial takes, and the study's tables.")
def status(study: str, store: str, as_json: bool, watch: bool, size: bool) -> None:
    """Show how far each trial of a study is.

    Reads the store alone, from any machine and while the study runs. Trials whose names differ in the last part
    alone are listed with the settings in which they differ.

    Example: diffseg status quickstart --watch
    """
    from studies.store.light import import_pyarrow

    import_pyarrow()
    from studies.commands.tables.trials import status_table
    from studies.store.following import watch_session
    from studies.store.sizes import measure_sizes
    from studies.store.state import trial_states

    definition, ledger = open_study(study, store)
    if watch and as_json:
        raise UserError("--watch shows a table: leave out --json, or ask for --json again and again")

    def render() -> "RenderableType":
        return status_table(
            definition, ledger, trial_states(definition, ledger), measure_sizes(ledger) if size else None
        )

    if watch:
        watch_value(render, watch_session(ledger))
    else:
        found, sizes = trial_states(definition, ledger), measure_sizes(ledger) if size else None
        rows = [state.to_dict() | ({"bytes": sizes.trials.get(state.trial, 0)} if sizes else {}) for state in found]
        show_value(rows, as_json, lambda _: status_table(definition, ledger, found, sizes))


@click.command()
@study_argument
@click.argument("trial")
@store_option
@json_option
@click.option("--config", "with_config", is_flag=True, help="Show the configuration, and all else that is recorded.")
@click.option("--follow", is_flag=True, help="Print the log, and what is added to it, until the trial ends.")
def show(study: str, trial: str, store: str, as_json: bool, with_config: bool, follow: bool) -> None:
    """Show what came of one trial, or follow it.

    Prints its state, metrics, costs, error, and the end of its log. The log has the steps with their loss and
    learning rate. TRIAL is a trial's name, or the beginning or end of it.

    Example: diffseg show quickstart e2-synthetic-large --follow
    """
    from studies.commands.tables.details import full_text, summary_text
    from studies.commands.tables.trials import distinguish_trials
    from studies.store.following import follow_log
    from studies.store.state import LOG_LINES, find_trial, trial_details

    definition, ledger = open_study(study, store)
    if follow:
        name = find_trial(definition, ledger, trial).name
        for line in follow_log(ledger, name, LOG_LINES):
            click.echo(line)
        return
    details = trial_details(definition, ledger, trial)
    if with_config or as_json:
        show_value(details, as_json, full_text)
        return
    names = [one.name for one in definition.known_trials(ledger)]
    differing = distinguish_trials(definition, ledger, names)[details["trial"]]
    show_value(details, False, lambda details: summary_text(details, differing))


@click.command()
@study_argument
@store_option
@click.option(
    "--metric",
    type=NamedChoice("metric", list(METRICS)),
    metavar="METRIC",
    help=f"Sort by this metric, one of {', '.join(METRICS)}.  [default: iou, and for proposals the search's objectives]",
)
@click.option(
    "--pareto",
    is_flag=True,
    help="Show only the trials that no other beats in both IoU and ECE, or in all objectives of a search.",
)
@click.option("--held-out", is_flag=True, help="Show all proposals of searches, which are scored on held-out images.")
@json_option
def best(study: str, store: str, metric: str | None, pareto: bool, held_out: bool, as_json: bool) -> None:
    """Show the best trials of each data set.

    Trials are scored on the test images, also those that confirm a search's proposals. Proposals themselves are
    scored on held-out training images. They are shown, and marked so, until some are confirmed. What is left out is
    said on standard error.

    Example: diffseg best search --metric ece --pareto
    """
    from studies.commands.tables.cells import MOST_ROWS
    from studies.commands.tables.trials import best_tables, distinguish_trials
    from studies.store.best import best_trials, explain_missing, nothing_measured_error, unconfirmed_searches

    definition, ledger = open_study(study, store)
    rows = [] if held_out else best_trials(definition, ledger, metric or "iou", pareto)
    open_searches = unconfirmed_searches(definition, ledger, rows)
    if open_searches:
        from analysis.searches import best_proposals

        rows += best_proposals(ledger, open_searches, metric, pareto)
    if metric and not any(row[metric] is not None for row in rows):
        raise nothing_measured_error(study, metric if rows or best_trials(definition, ledger, "iou", pareto) else None)
    if not rows:
        raise nothing_measured_error(study)
    tested = [row for row in rows if row["scored_on"] == "test"]
    differing = distinguish_trials(
        definition, ledger, [row["trial"] for row in (tested if as_json else tested[:MOST_ROWS])]
    )
    if as_json:
        rows = [row | {"differs": differing.get(row["trial"])} for row in rows]
    show_value(rows, as_json, lambda rows: best_tables(rows, metric or "iou", differing))
    if missing := explain_missing(definition, ledger, metric or "iou", held_out):
        click.echo(missing, err=True)


@click.command()
@study_argument
@store_option
@click.option(
    "--class",
    "of_class",
    metavar="NAME",
    help="Show all metrics of this class.  [default: those of all classes, and IoU and Dice of each]",
)
@json_option
def compare(study: str, store: str, of_class: str | None, as_json: bool) -> None:
    """Compare every configuration with the study's baseline.

    Prints means on the test images, differences with 95 % intervals, and verdicts. The baseline is the variant that a
    study file names, or the first proposal of a search among those that it confirmed. Where neither is there, it is
    E1, plain segmentation, to which E2 is compared.

    Example: diffseg compare quickstart
    """
    from analysis.comparison import compare_to_baseline
    from analysis.configurations import name_configurations
    from analysis.frames import records
    from analysis.tables import load
    from diffseg.suggestions import did_you_mean
    from studies.commands.tables.comparison import ComparisonTable

    ledgers = [open_study(study, store)[1]]
    rows = records(compare_to_baseline(load(ledgers), name_configurations(ledgers)))
    known = list(dict.fromkeys(row["class"] for row in rows))
    if of_class is not None and of_class not in known:
        raise UserError(
            f"the trials of {study} have measured no class '{of_class}': allowed are {', '.join(known)}"
            f"{did_you_mean(of_class, known)}"
        )
    shown = [row for row in rows if of_class in (None, row["class"])] if as_json else rows
    show_value(shown, as_json, lambda rows: ComparisonTable(rows, of_class))
