"""Commands that list what there is: `studies`, `networks`, `presets`, `settings`."""

from dataclasses import asdict

import click

from diffseg.errors import UserError
from diffseg.suggestions import did_you_mean, find_nearest_part
from studies.commands.options import json_option, store_option
from studies.commands.output import show


@click.command()
@store_option
@json_option
def studies(store: str, as_json: bool) -> None:
    """List the shipped studies, and those in the store.

    Studies in the store are shown with the counts of their trials, and whether a session runs them now.
    """
    from studies.store.light import import_pyarrow

    import_pyarrow()
    from studies.commands.tables.listing import studies_table
    from studies.definition.shipped import describe_shipped
    from studies.store.overview import studies_in

    shipped = [{"study": name, "description": words} for name, words in describe_shipped().items()]
    found = {"shipped": shipped, "store": store, "studies": [study.to_dict() for study in studies_in(store)]}
    show(found, as_json, studies_table)


@click.command()
@json_option
def networks(as_json: bool) -> None:
    """List the networks, with their experiments, presets and sources.

    Example: diffseg run quickstart network=segdiff
    """
    from diffseg.networks.registry import describe
    from studies.commands.tables.listing import networks_table

    show([asdict(network) for network in describe()], as_json, networks_table)


@click.command()
@click.argument("network", required=False)
@json_option
def presets(network: str | None, as_json: bool) -> None:
    """List the presets of a network, or of all networks, with what they set.

    A published preset has the settings of a publication; its debug twin is small enough for a CPU.

    Example: diffseg run quickstart network=segdiff preset=debug/monuseg
    """
    from diffseg.config.presets import names, settings
    from diffseg.networks.registry import describe
    from studies.commands.tables.listing import presets_table

    known = [entry.name for entry in describe()]
    if network is not None and network not in known:
        raise UserError(
            f"there is no network '{network}': allowed are {', '.join(known)}{did_you_mean(network, known)}"
        )
    rows = [
        {"network": name, "preset": preset, "settings": settings(name, preset)}
        for name in known
        if network in (name, None)
        for preset in names(name)
    ]
    show(rows, as_json, presets_table)


@click.command()
@click.argument("prefix", default="")
@json_option
def settings(prefix: str, as_json: bool) -> None:
    """List the settings of a trial: type, default, allowed values, meaning.

    PREFIX limits the list to the settings that begin with it. On the command line, None is
    written null, and lists as [1,2]. `used by` is empty if every experiment and network uses the setting.

    Example: diffseg settings diffusion
    """
    from diffseg.config.describe import settings as list_settings
    from studies.commands.tables.listing import SettingsTable

    found = list_settings(prefix)
    if not found:
        paths = [setting.path for setting in list_settings()]
        near = find_nearest_part(prefix, {*paths, *(path.rpartition(".")[0] for path in paths)} - {""})
        hint = f"the nearest are {', '.join(near)}; " if near else ""
        raise UserError(f"no setting begins with '{prefix}': {hint}`diffseg settings` lists all")
    rows = [asdict(setting) | {"used_by": setting.used_by} for setting in found]
    show(rows, as_json, SettingsTable)
