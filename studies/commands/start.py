"""The command that writes a study file to start from: `init`."""

import shlex
from pathlib import Path

import click

from diffseg.errors import UserError
from diffseg.suggestions import did_you_mean_path
from studies.commands.options import settings_argument
from studies.commands.requests import parse_settings


@click.command()
@click.argument("name")
@click.argument("root", type=click.Path(path_type=Path))
@settings_argument
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file.  [default: NAME.toml]")
def init(name: str, root: Path, settings: tuple[str, ...], output: Path | None) -> None:
    """Write a commented study file for your own images and masks.

    NAME is what the data set at ROOT is called from now on. Its layout is recognised, and what its files say is filled
    in. KEY=VALUE sets a leaf of the data set, such as data.channels=1. An existing file is left alone.

    Example: diffseg init mine /data/my-folder
    """
    from studies.definition.folder_settings import fill_in
    from studies.definition.shipped import layout_of
    from studies.definition.template import write_template

    given, path = parse_settings(settings), output or Path(f"{name}.toml")
    if not root.is_dir():
        raise UserError(f"{root} is not a folder{did_you_mean_path(root)}: give the folder of images and masks")
    if other := [key for key in given if not key.startswith("data.")]:
        raise UserError(
            f"{other[0]} is no setting of a data set: `init` takes those that begin with data.; edit the file for others"
        )
    found = fill_in({"data.name": name, "data.layout": layout_of(name, str(root))} | given, str(root))
    files = shlex.quote(str(path)), shlex.quote(f"{name}={root}")
    text = write_template(name, files[1], files[0], found)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists: give another file with --output") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): give another file with --output") from None
    check = f"diffseg data check {shlex.quote(name)} {shlex.quote(str(root))}"
    click.echo(f"{path} is written, for layout {found['data.layout']}. Check the data: {check}")
    click.echo(f"Then: diffseg plan {files[0]} --data {files[1]}")
