"""Commands that list what there is: `studies`, `networks`, `presets`, `settings`."""

import click

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
