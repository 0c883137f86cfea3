"""Options and arguments that several commands share."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import click
from click.shell_completion import CompletionItem

from studies.commands.requests import StudyRequest

Command = Callable[..., None]
Option = Callable[[Command], Command]
SEARCH_OPTIONS = (
    "space",
    "budget",
    "folds",
    "objective",
    "sampler",
    "pruning",
    "certainty",
    "confirm",
    "stop",
    "warm_start",
)


if TYPE_CHECKING:  # generic in click's newer versions alone
    TextType = click.ParamType[str]
else:
    TextType = click.ParamType


class NamedChoice(TextType):
    """A choice whose message names the nearest of the allowed values first."""

    def __init__(self, name: str, allowed: Sequence[str]):
        """Take what the value names, such as metric, and the allowed values."""
        self.name, self.allowed = name, allowed

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value. Raises BadParameter if it is not allowed."""
        if value not in self.allowed:
            from diffseg.suggestions import did_you_mean

            listed = ", ".join(self.allowed)
            self.fail(f"there is no {self.name} '{value}'{did_you_mean(value, self.allowed)}: allowed are {listed}")
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the allowed values that begin with what is typed."""
        return [CompletionItem(value) for value in self.allowed if value.startswith(incomplete)]


class Placement(TypedDict):
    """The resources of a trial, as the command line gives them: fields of `studies.engine.session.Resources`."""

    cpus: float
    gpus: float | None
    workers: int
    labels: dict[str, str]


def _parse_roots(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Parse NAME=ROOT into the roots of data sets by name; relative paths become absolute."""
    roots = {}
    for value in values:
        from studies.store.folder import absolute_place  # pyarrow takes long to import

        name, equals, root = value.partition("=")
        if not equals or not name or not root:
            raise click.BadParameter(f"got '{value}', but data are named NAME=ROOT, such as --data isic16=/data/isic16")
        roots[name] = absolute_place(root)
    return roots


def _parse_labels(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Parse KEY=VALUE into labels of nodes."""
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, pair in zip(values, pairs, strict=True) if not all(pair)]:
        raise click.BadParameter(f"got '{wrong[0]}', but nodes are labelled KEY=VALUE")
    return {key: value for key, _, value in pairs}


store_option = click.option(
    "--store",
    default=lambda: os.environ.get("DIFFSEG_STORE", "results"),
    metavar="DIR",
    help="Folder or URI of the store, which holds all studies.  [default: $DIFFSEG_STORE, or results]",
)
data_option = click.option(
    "--data",
    "roots",
    multiple=True,
    callback=_parse_roots,
    metavar="NAME=ROOT",
    help="Folder or URI of a data set, as every node sees it. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
settings_argument = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
study_argument = click.argument("study")
address_option = click.option(
    "--address", help="Address of a running Ray cluster; 'auto' finds one.  [default: start Ray on this machine]"
)


def placement_options(command: Command) -> Command:
    """Add the options of a trial's resources, which the command gets as one keyword `placement`."""

    @functools.wraps(command)
    def placed(
        *arguments: Any, cpus: float, gpus: float | None, workers: int, labels: dict[str, str], **more: Any
    ) -> None:
        command(*arguments, placement=Placement(cpus=cpus, gpus=gpus, workers=workers, labels=labels), **more)

    options: tuple[Option, ...] = (
        click.option(
            "--cpus",
            type=click.FloatRange(min=0, min_open=True),
            default=1.0,
            show_default=True,
            help="CPUs of each worker of a trial.",
        ),
        click.option(
            "--gpus",
            type=click.FloatRange(min=0),
            help="GPUs of each worker, or a fraction of one.  [default: 1 if there are any]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Processes that train a trial together, each on a part of every batch.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_parse_labels,
            help="Use only nodes with this Ray label, such as ray.io/accelerator-type=H100. Repeatable.",
        ),
    )
    return _add(options, placed)


def study_options(command: Command) -> Command:
    """Add what `run` and `plan` share: study, settings, data and search as one keyword `request`, and the resources."""

    @functools.wraps(command)
    def requested(
        *arguments: Any,
        study: str,
        settings: tuple[str, ...],
        store: str,
        roots: dict[str, str],
        name: str | None,
        experiments: tuple[str, ...],
        **more: Any,
    ) -> None:
        search = {option: more.pop(option) for option in SEARCH_OPTIONS}
        given = {option: value for option, value in search.items() if value not in (None, ())}
        request = StudyRequest(study, store, settings, roots, name, experiments, given)
        command(*arguments, request=request, **more)

    options: tuple[Option, ...] = (
        study_argument,
        settings_argument,
        store_option,
        data_option,
        click.option("--name", help="Name of the study in the store.  [default: STUDY]"),
        click.option(
            "--experiment",
            "experiments",
            multiple=True,
            type=click.Choice(["e1", "e2", "e3", "e4"]),
            help="Run only this experiment of the study. Repeatable.",
        ),
        click.option("--concurrency", type=click.IntRange(min=1), help="Trials that run side by side, at most."),
        *_search_options(),
        placement_options,
    )
    return _add(options, requested)


def _search_options() -> tuple[Option, ...]:
    """The options of a search; their names are SEARCH_OPTIONS."""
    return (
        click.option(
            "--space", help="Search: schedule, target, weighting, fingerprint, everything, or FILE.py:FUNCTION."
        ),
        click.option(
            "--budget", type=click.IntRange(min=1), help="Search: number of proposals; a larger one extends the search."
        ),
        click.option(
            "--folds",
            type=click.IntRange(min=1),
            help="Search: held-out parts of the training images on which a proposal is measured in turn.",
        ),
        click.option(
            "--objective", metavar="METRIC,...", help="Search: metrics to improve; several give their Pareto front."
        ),
        click.option("--sampler", help="Search: tpe, gp, random or grid."),
        click.option(
            "--pruning",
            type=click.IntRange(min=0),
            help="Search: a trial ends at a rung if one in this many is surely ahead of it; 0 prunes none.",
        ),
        click.option(
            "--certainty",
            type=click.FloatRange(min=0.5, min_open=True, max=1, max_open=True),
            help="Search: probability from which a trial counts as ahead of another one.",
        ),
        click.option("--confirm", metavar="KxN", help="Search: train the best, at most K, again with N fresh seeds."),
        click.option(
            "--stop",
            multiple=True,
            metavar="RULE=N",
            help="Search: end early by hours, gpu_hours, without_improvement or failures. Repeatable.",
        ),
        click.option(
            "--warm-start",
            multiple=True,
            metavar="STUDY",
            help="Search: try first what was best in this study of the store, or STORE/STUDY. Repeatable.",
        ),
    )


def _add(options: tuple[Option, ...], command: Command) -> Command:
    """Decorate a command with options, which its help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command
