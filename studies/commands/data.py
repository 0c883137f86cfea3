"""Commands about data sets: `data check`."""

import sys
from pathlib import Path

import click

from diffseg.errors import UserError
from studies.commands.options import json_option, settings_argument
from studies.commands.output import progress_bar, show
from studies.commands.requests import parse_settings
from studies.commands.statuses import FAILED_TRIALS


@click.group()
def data() -> None:
    """Check data sets before they are used."""


@data.command()
@click.argument("name")
@click.argument("root", type=click.Path(file_okay=False))
@settings_argument
@click.option("--sheet", type=click.Path(dir_okay=False), help="File of the contact sheet.  [default: NAME.png]")
@json_option
def check(name: str, root: str, settings: tuple[str, ...], sheet: str | None, as_json: bool) -> None:
    """Report what a data set has, and each file that cannot be used.

    Reads the data set NAME at ROOT. Reports images, sizes and foreground, and draws a contact sheet of images with the
    contours of their masks, one colour for each rater.

    Example: diffseg data check isic16 /data/isic16
    """
    from diffseg.config import Config
    from diffseg.data.check import check as check_data
    from studies.definition.folder_settings import fill_in
    from studies.definition.shipped import data_settings

    leaves = fill_in(data_settings(name, root) | {"data.name": name} | parse_settings(settings), root)
    with progress_bar(f"reading {name}") as on_progress:
        found = check_data(Config().with_leaves(leaves).data, Path(root), on_progress)
    show(found.to_dict(), as_json, lambda _: str(found))
    if found.sheet:
        path = Path(sheet or f"{name}.png")
        try:
            found.sheet.save(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the contact sheet cannot be written to {path} ({error}): give another with --sheet"
            ) from None
        click.echo(path, err=True)
    sys.exit(FAILED_TRIALS if found.problems else 0)
