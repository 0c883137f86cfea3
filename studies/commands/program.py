"""The program `diffseg`: its commands, and how errors become one sentence and an exit status."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from diffseg.errors import MachineryError, UserError
from studies.commands.sections import LazyGroup, Sections
from studies.commands.statuses import MACHINERY, STOPPED, WRONG_USE

SECTIONS: Sections = {
    "Studies": {
        "auto": "studies.commands.auto",
        "run": "studies.commands.running",
        "plan": "studies.commands.running",
        "retry": "studies.commands.running",
        "stop": "studies.commands.running",
        "compact": "studies.commands.running",
        "clean": "studies.commands.cleaning",
        "delete": "studies.commands.cleaning",
    },
    "Results": {
        "status": "studies.commands.results",
        "show": "studies.commands.results",
        "best": "studies.commands.results",
        "compare": "studies.commands.results",
        "report": "studies.commands.reports",
        "card": "studies.commands.reports",
        "export": "studies.commands.exporting",
        "dashboard": "studies.commands.reports",
        "predict": "studies.commands.prediction",
    },
    "Data sets": {
        "init": "studies.commands.start",
        "data": "studies.commands.data",
        "fingerprint": "studies.commands.fingerprints",
        "recommend": "studies.commands.fingerprints",
    },
    "What there is": {
        "studies": "studies.commands.listing",
        "networks": "studies.commands.listing",
        "presets": "studies.commands.listing",
        "settings": "studies.commands.listing",
    },
    "Machines": {
        "cluster": "studies.commands.cluster",
        "bench": "studies.commands.bench",
    },
}


class Program(LazyGroup):
    """The program: errors of users and of the machinery end it with one sentence, SIGTERM ends it as Ctrl-C does.

    Other exceptions are faults of the program and keep their traceback.
    """

    sections = SECTIONS

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit with its status."""
        _restart_in_utf8()
        with _sigterm_as_interrupt():
            try:
                _check_platform()
                _check_current_folder()
                sys.exit(super().main(*args, **{**kwargs, "standalone_mode": False}))
            except UserError as error:
                _end(str(error), WRONG_USE)
            except MachineryError as error:
                _end(str(error), MACHINERY)
            except click.ClickException as error:
                _end(error.format_message(), WRONG_USE)
            except (click.Abort, KeyboardInterrupt):
                _end("stopped", STOPPED)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                _discard_output()
                _end(f"the disk is full ({error}): make room, then give the same command again", MACHINERY)


@click.group(cls=Program, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diffseg", prog_name="diffseg")
@click.pass_context
def main(context: click.Context) -> None:
    """Run studies of diffusion segmentation, resume them, and read their results.

    Start with `diffseg run quickstart`, or with your own images: `diffseg init`. Add --help to a command to read about it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _restart_in_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale has another encoding of file names and texts."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _check_platform() -> None:
    """Raise UserError on Windows, which lacks the signals and file locks that sessions need."""
    if sys.platform == "win32":
        raise UserError(
            "diffseg runs on Linux, and untested on macOS, but not on Windows: use the Windows Subsystem for Linux"
        )


def _check_current_folder() -> None:
    """Raise UserError if the current folder is gone. Libraries that look for it would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be read ({error.strerror}): change to another") from None


def _discard_output() -> None:
    """Discard buffered output. Python would write it at exit and fail once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, status: int) -> NoReturn:
    """Print a message, or the help of a group without a command, on standard error and exit."""
    click.echo(message if message.startswith("Usage: ") else f"diffseg: {message}", err=True)
    sys.exit(status)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt. Python allows signal handlers in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
