"""The command that segments new images: `predict`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffseg.errors import UserError
from studies.commands.options import store_option, study_argument
from studies.commands.output import progress_bar
from studies.commands.requests import open_study

if TYPE_CHECKING:
    from diffseg.data.scaling import Scaling
    from diffseg.prediction.mask_format import MaskFormat
    from studies.store.ledger import Ledger


@click.command()
@study_argument
@click.argument("trial")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@store_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="predictions",
    show_default=True,
    metavar="DIR",
    help="Folder for the masks and maps.",
)
@click.option("--device", help="Device to compute on, such as cpu or cuda:1.  [default: a GPU if there is one]")
def predict(study: str, trial: str, inputs: tuple[Path, ...], store: str, output: Path, device: str | None) -> None:
    """Segment new images with a finished trial.

    Writes, at each image's own size, the mask, the samples, and the mean and standard deviation of each class. INPUT is a
    picture, a NIfTI volume or a folder of them (for BRATS, of a patient or of patients), which is read with its sub-folders;
    what is written keeps these. TRIAL is a trial's name, or the beginning or end of it.

    Example: diffseg predict quickstart e2-synthetic-large image.png
    """
    from diffseg.prediction.new_images import predict_files
    from studies.definition.trial import trial_name
    from studies.store.copies import LocalCopy
    from studies.store.state import find_trial, finished_row

    definition, ledger = open_study(study, store)
    chosen = find_trial(definition, ledger, trial)

    def folder_of(name: str) -> Path:
        folder = ledger.folder.at(f"work/{name}")
        return folder.local or LocalCopy(folder).fetch()

    scaling = _scaling(ledger, chosen.name)
    with progress_bar("predicting") as on_progress:
        written = predict_files(
            chosen.config,
            folder_of(chosen.name),
            scaling,
            list(inputs),
            output,
            device,
            masks=_mask_format(ledger, chosen.name),
            folder_of=lambda member: folder_of(trial_name(member)),
            checkpoint_of=lambda member: finished_row(ledger, trial_name(member))["checkpoint"],
            threshold=finished_row(ledger, chosen.name)["risk_threshold"],
            on_progress=on_progress,
        )
    click.echo(f"{len(written)} files in {output}")


def _scaling(ledger: "Ledger", trial: str) -> "Scaling":
    """Return how a finished trial scaled its images, from the ledger. Raises UserError if it does not say."""
    from diffseg.data.scaling import Scaling
    from studies.store.state import finished_row

    try:
        return Scaling(**json.loads(finished_row(ledger, trial)["scaling"]))
    except (TypeError, ValueError):
        raise UserError(
            f"the ledger does not say how the images of {trial} were scaled: run it again in a study of another name"
        ) from None


def _mask_format(ledger: "Ledger", trial: str) -> "MaskFormat":
    """Return the format of a finished trial's training masks, from the ledger; the default one if it is of an earlier version.

    Raises UserError for a damaged entry.
    """
    from diffseg.prediction.mask_format import MaskFormat
    from studies.store.state import finished_row

    text = finished_row(ledger, trial)["labels"]
    try:
        return MaskFormat.from_json(text) if text else MaskFormat()
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"the ledger does not say what the masks of {trial} hold: run it again in a study of another name"
        ) from None
