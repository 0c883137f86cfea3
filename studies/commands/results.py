"""Commands that print results: `status`, `show`, `best`, `compare`."""

import click

from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS
from studies.commands.options import json_option, store_option, study_argument
from studies.commands.output import show as show_value
from studies.commands.requests import open_study


@click.command()
@study_argument
@store_option
@json_option
def status(study: str, store: str, as_json: bool) -> None:
    """Show how far each trial of a study is.

    Reads the store alone, from any machine and while the study runs.
    """
    from studies.store.light import import_pyarrow

    import_pyarrow()
    from studies.commands.tables.trials import status_table
    from studies.store.state import trial_states

    found = trial_states(*open_study(study, store))
    show_value([state.to_dict() for state in found], as_json, lambda _: status_table(found))


@click.command()
@study_argument
@click.argument("trial")
@store_option
@json_option
def show(study: str, trial: str, store: str, as_json: bool) -> None:
    """Show all that is known of one trial.

    Prints metrics, costs, configuration, error, and the end of its log. TRIAL is a trial's name, or the beginning or
    end of it.
    """
    from studies.commands.tables.trials import trial_text
    from studies.store.state import trial_details

    show_value(trial_details(*open_study(study, store), trial), as_json, trial_text)


@click.command()
@study_argument
@store_option
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    help="Sort by this metric.  [default: iou, and for proposals the search's objectives]",
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
    scored on held-out training images. They are shown, and marked so, until some are confirmed.

    Example: diffseg best search --metric ece --pareto
    """
    from studies.commands.tables.trials import best_tables
    from studies.store.best import best_trials, nothing_measured_error, unconfirmed_searches

    definition, ledger = open_study(study, store)
    rows = [] if held_out else best_trials(definition, ledger, metric or "iou", pareto)
    if open_searches := unconfirmed_searches(definition, ledger, rows):
        from analysis.searches import best_proposals

        rows += best_proposals(ledger, open_searches, metric, pareto)
    if metric and not any(row[metric] is not None for row in rows):
        raise nothing_measured_error(study, metric if rows or best_trials(definition, ledger, "iou", pareto) else None)
    if not rows:
        raise nothing_measured_error(study)
    show_value(rows, as_json, lambda rows: best_tables(rows, metric or "iou"))


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
    study file names, or the first proposal of a search among those that it confirmed.
    """
    from analysis.comparison import compare_to_baseline
    from analysis.configurations import name_configurations
    from analysis.frames import records
    from analysis.tables import load
    from studies.commands.tables.comparison import ComparisonTable

    ledgers = [open_study(study, store)[1]]
    rows = records(compare_to_baseline(load(ledgers), name_configurations(ledgers)))
    known = list(dict.fromkeys(row["class"] for row in rows))
    if of_class is not None and of_class not in known:
        raise UserError(f"the trials of {study} have measured no class '{of_class}': allowed are {', '.join(known)}")
    shown = [row for row in rows if of_class in (None, row["class"])] if as_json else rows
    show_value(shown, as_json, lambda rows: ComparisonTable(rows, of_class))
