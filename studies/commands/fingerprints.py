"""Commands about a data set's noise levels: `fingerprint`, `recommend`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studies.commands.options import (
    Placement,
    address_option,
    data_option,
    json_option,
    placement_options,
    settings_argument,
    store_option,
)
from studies.commands.output import finish, progress_bar, show
from studies.commands.requests import command_line, merge_roots, parse_settings

if TYPE_CHECKING:
    from diffseg.config import Config
    from studies.search.recommendation import Choice
    from studies.store.ledger import Ledger

ESTIMATING = "estimating the fingerprint of {}, which takes about a minute"

class_option = click.option(
    "--class",
    "of_class",
    metavar="NAME",
    help="A class of data.classes: short for diffusion.fingerprint_class=NAME.  [default: the mean over the classes]",
)


@click.command()
@click.argument("dataset")
@settings_argument
@store_option
@data_option
@placement_options
@json_option
@class_option
@click.option("--quick", is_flag=True, help="Estimate it without training, in about a minute.")
@address_option
def fingerprint(
    dataset: str,
    settings: tuple[str, ...],
    store: str,
    roots: dict[str, str],
    placement: Placement,
    as_json: bool,
    of_class: str | None,
    quick: bool,
    address: str | None,
) -> None:
    """Measure at which noise levels masks are decided.

    Trains E3, which sees the noisy mask alone, as a study of its own (fingerprint-DATASET), and reports how its error
    rises with the noise: the mean over the classes, and which class is decided at which noise. KEY=VALUE sets any leaf of
    a trial that is weighted by the fingerprint, such as data.size=128, diffusion.fingerprint=dice or
    diffusion.fingerprint_seeds=[0,1]. Synthetic data sets need no --data.

    Example: diffseg fingerprint isic16 --data isic16=/data/isic16 --quick
    """
    from studies.commands.tables.estimates import fingerprint_table
    from studies.definition.changes import extend_study
    from studies.definition.study import stored_study
    from studies.engine.resources import Resources
    from studies.engine.session import run as run_session
    from studies.search.fingerprints import build_study, estimate_fingerprints, read_fingerprints, to_dict

    config, roots, ledger = _fingerprint_trial(dataset, settings, store, roots, of_class)
    if quick:
        with progress_bar(ESTIMATING.format(dataset), quiet=as_json) as on_progress:
            found = estimate_fingerprints(config, roots.get(dataset), store, on_progress)
        show(to_dict(found), as_json, lambda _: fingerprint_table(found))
        return
    requested, definition = build_study(config, roots, command_line()), ledger.usable_definition()
    study = extend_study(stored_study(requested.name, definition), requested) if definition else requested
    finished = run_session(study, ledger, Resources(**placement), address=address, quiet=as_json)
    if measurement := read_fingerprints(config, ledger):
        show(to_dict(measurement), as_json, lambda _: fingerprint_table(measurement))
    finish(study, ledger, finished, with_report=not as_json)


@click.command()
@click.argument("dataset")
@settings_argument
@store_option
@data_option
@class_option
@click.option("--output", type=click.Path(dir_okay=False), help="The TOML file to write.  [default: DATASET.toml]")
def recommend(
    dataset: str,
    settings: tuple[str, ...],
    store: str,
    roots: dict[str, str],
    of_class: str | None,
    output: str | None,
) -> None:
    """Write a study file that suits a data set.

    Its settings follow from the data set's fingerprint alone, of one class or the mean over the classes: the one in the
    store, or else the quick estimate. Synthetic data sets need no --data.
    """
    from studies.definition.trial import Trial
    from studies.planning.datasets import check_datasets
    from studies.search.fingerprints import describe_source, estimate_fingerprints, read_fingerprints
    from studies.search.recommendation import format_study
    from studies.search.recommendation import recommend as recommend_settings

    config, roots, ledger = _fingerprint_trial(dataset, settings, store, roots, of_class)
    found = read_fingerprints(config, ledger)
    source = describe_source(config, measured=found is not None)
    if not found:
        with progress_bar(ESTIMATING.format(dataset)) as on_progress:
            found = estimate_fingerprints(config, roots.get(dataset), store, on_progress)
    first = next(iter(found.values()))
    check_datasets([Trial(dataset, config.fingerprint_trials()[0])], roots, store)
    choices = [*_describe_data(config, roots.get(dataset), store, parse_settings(settings)), *recommend_settings(first)]
    path = Path(output or f"{dataset}.toml")
    path.write_text(format_study(config, choices, source), encoding="utf-8")
    for choice in choices:
        shown = ", ".join(
            f"{key}={'…' if key == 'diffusion.profile' else value}" for key, value in choice.settings.items()
        )
        click.echo(f"{shown}: {choice.reason}")
    given = "".join(f" --data {shlex.quote(f'{name}={root}')}" for name, root in roots.items())
    click.echo(f"From the fingerprint {source}. Run it: diffseg run {shlex.quote(str(path))}{given}")


def _describe_data(config: "Config", root: str | None, store: str, given: dict[str, Any]) -> "list[Choice]":
    """Return what a recommended study says of the data: the fingerprint's size, and the flips that leave their meaning."""
    from studies.auto.inspection import look_at_orientation
    from studies.search.recommendation import Choice
    from studies.store.places import cache_folder, fetch_root

    size = config.data.size
    choices = [
        Choice({"data.size": size}, f"the fingerprint is that of masks at {size} px; at others, other noise hides them")
    ]
    if root and "data.augment.flips" not in given:
        flips, reason, _ = look_at_orientation(config.data, str(fetch_root(root)), cache_folder(store))
        choices.append(Choice({"data.augment.flips": flips}, reason))
    return choices


def _fingerprint_trial(
    dataset: str, settings: tuple[str, ...], store: str, roots: dict[str, str], of_class: str | None
) -> "tuple[Config, dict[str, str], Ledger]":
    """Return the trial that the fingerprint would weight, the data set's root by name, and the fingerprint's ledger."""
    from studies.search.fingerprints import build_weighted
    from studies.store.ledger import Ledger

    ledger = Ledger(store, f"fingerprint-{dataset}")
    known = merge_roots(ledger, ledger.usable_definition(), roots)
    chosen = {"diffusion.fingerprint_class": of_class} if of_class else {}
    config = build_weighted(dataset, known, parse_settings(settings) | chosen)
    return config, {name: root for name, root in known.items() if name == dataset}, ledger
