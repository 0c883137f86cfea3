"""Commands about data sets: `data check`."""

import sys
from pathlib import Path
from typing import Any

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
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=100),
    default=10.0,
    show_default=True,
    metavar="POINTS",
    help="Half-width in points of IoU of the 95 % interval that is wanted; a warning says if test images are too few.",
)
@json_option
def check(name: str, root: str, settings: tuple[str, ...], sheet: str | None, interval: float, as_json: bool) -> None:
    """Report what a data set has, and each file that cannot be used.

    Reads the data set at ROOT, which is called NAME in studies. Its layout is data.layout if that is given, else that of
    the shipped data set of this name, else the one that its files show. Reports images, sizes and foreground, and draws
    a contact sheet of images with the contours of their masks, one colour for each rater.

    Example: diffseg data check isic16 /data/isic16
    """
    from diffseg.config import Config
    from diffseg.data.check import check as check_data
    from studies.definition.folder_settings import fill_in
    from studies.definition.shipped import data_settings

    given = parse_settings(settings)
    leaves = fill_in(data_settings(name, root) | {"data.name": name} | given, root)
    config = Config().with_leaves(leaves).data
    with progress_bar(f"reading {name}, in the layout {config.layout}", quiet=as_json) as on_progress:
        found = check_data(config, Path(root), on_progress, interval / 100)
    layout = _describe_layout(name, config.layout, given)
    show(found.to_dict() | {"layout": config.layout}, as_json, lambda _: f"{layout}\n{found}")
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


def _describe_layout(name: str, layout: str, given: dict[str, Any]) -> str:
    """Return a sentence on the layout, which the data set's name may or may not decide, and why it is this one."""
    from diffseg.data import LAYOUTS
    from diffseg.suggestions import did_you_mean
    from studies.definition.shipped import shipped_data_sets

    shipped = shipped_data_sets()
    if "data.layout" in given:
        why = "as given"
    elif name in shipped:
        why = "that of the shipped data set of this name"
    else:
        why = f"recognised by its files{did_you_mean(name, shipped)}"
    sentence = f"{name}: layout {layout}, {why}."
    if name in LAYOUTS and name != layout:
        sentence += f" '{name}' is the data set's name alone: data.layout={name} sets the layout."
    return sentence
