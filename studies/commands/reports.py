"""Commands that write or serve a study's results for readers: `report`, `card`, `dashboard`."""

import shlex
import socket
from pathlib import Path

import click

from diffseg.errors import UserError
from studies.commands.options import store_option, study_argument
from studies.commands.output import path_beside
from studies.commands.requests import open_study


@click.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@store_option
@click.option(
    "--output", type=click.Path(dir_okay=False), help="The file to write.  [default: report.html in the study's folder]"
)
@click.option(
    "--png",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write every chart into this folder.",
)
def report(studies: tuple[str, ...], store: str, output: str | None, png: Path | None) -> None:
    """Write the tables and charts of studies into one HTML file.

    The file opens offline. Several studies are shown side by side.
    """
    from analysis.report import write_report
    from studies.store.ledger import open_ledger

    ledgers = [open_ledger(store, study) for study in studies]
    click.echo(write_report(ledgers, Path(output) if output else path_beside(ledgers[0], "report.html"), png))


@click.command()
@study_argument
@click.argument("trial")
@store_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Markdown file.  [default: cards/TRIAL.md in the study's folder]",
)
def card(study: str, trial: str, store: str, output: Path | None) -> None:
    """Write a model card of a trained network, in Markdown.

    The card has what the ledger says of a trial of E1 or E2: input, data, configuration, versions, results with
    intervals, calibration and limits. The items of CLAIM and TRIPOD+AI are listed, and those that the ledger answers
    are filled. The others are left to you, so an existing file is left alone. TRIAL is a trial's name, or the beginning
    or end of it.

    Example: diffseg card quickstart e2-synthetic-large
    """
    from analysis.card import write_card
    from analysis.card_subject import load_subject

    definition, ledger = open_study(study, store)
    subject = load_subject(definition, ledger, trial)
    click.echo(write_card(subject, output or path_beside(ledger, f"cards/{subject.trial}.md")))


@click.command()
@study_argument
@store_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of this machine to listen on."
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write TensorBoard's event files into this folder instead.",
)
def dashboard(study: str, store: str, port: int, tensorboard: Path | None) -> None:
    """Serve a study in optuna-dashboard until Ctrl-C.

    The dashboard is reached from this machine alone. It reads a journal, made of the study's ledger.
    """
    from analysis.tables import load
    from studies.store.ledger import open_ledger

    ledger = open_ledger(store, study)
    found = load([ledger])
    if tensorboard:
        from analysis.export import write_event_files

        click.echo(
            f"{write_event_files(found, tensorboard)} trials in {tensorboard}: {_hint_at_tensorboard(tensorboard)}"
        )
        return
    import optuna_dashboard

    from analysis.export import write_journal

    storage = write_journal(found, path_beside(ledger, "dashboard.journal"))
    try:
        socket.create_server(("127.0.0.1", port)).close()  # fail before the server prints that it listens
        optuna_dashboard.run_server(storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error}): give another with --port") from None


def _hint_at_tensorboard(folder: Path) -> str:
    """Return the command that shows event files, or how to install what it needs."""
    from importlib.util import find_spec

    command = f"tensorboard --logdir {shlex.quote(str(folder))}"
    if find_spec("tensorboard"):
        return command
    return f"TensorBoard is not installed here, `pip install tensorboard` does so, and then `{command}` shows them"
