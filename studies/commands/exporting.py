"""The command that writes a study's tables for other programs: `export`."""

from pathlib import Path

import click

from diffseg.nouns import noun
from studies.commands.options import store_option, study_argument


@click.command()
@study_argument
@store_option
@click.option(
    "--csv",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Write CSV files into this folder.",
)
def export(study: str, store: str, folder: Path) -> None:
    """Write a study's tables as tidy CSV files.

    There is one file for each view that has rows: trials, Table 1, differences of E2 to E1, comparisons with the baseline,
    proposals, images, curves and others. Metrics are fractions. Existing files of these names are replaced.

    Example: diffseg export quickstart --csv tables
    """
    from analysis import load
    from analysis.views import write_csv

    for path, rows in write_csv(load(store, study), folder).items():
        click.echo(f"{path} ({rows} {noun(rows, 'row')})")
