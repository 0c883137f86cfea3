"""Changes of a study's definition: what differs from the stored one, and whether the study may be run as it is now."""

import logging
from dataclasses import replace
from typing import Any

from diffseg.errors import DefinitionError, UserError
from diffseg.nouns import noun
from studies.definition.study import Study, stored_study
from studies.definition.trial import merge_trials

log = logging.getLogger(__name__)
SHOWN = 10  # differences in a message


def describe_differences(old: Study, new: Study) -> list[str]:
    """Return one line for each setting whose values differ, then one that counts the trials that only one study has.

    The list is empty if both have the same trials.
    """
    before, after = ({t.name: t.config for t in (*each.trials, *each.starts)} for each in (old, new))
    gone, added = before.keys() - after.keys(), after.keys() - before.keys()
    if not gone and not added:
        return []
    lines, leaves = [], [[config.leaves() for config in configs.values()] for configs in (before, after)]
    for key in dict.fromkeys(
        key for one in (*leaves[0], *leaves[1]) for key in one
    ):  # networks differ in their settings
        values = [sorted({repr(one[key]) for one in some if key in one}) for some in leaves]
        if values[0] != values[1]:
            lines.append(f"{key}: {', '.join(values[0]) or 'none'} → {', '.join(values[1]) or 'none'}")
    trials = f"{len(gone)} {noun(len(gone), 'trial')} no longer asked for"
    return [*lines, f"{trials}, {len(added)} new {noun(len(added), 'one')}"]


def check_against_stored(new: Study, definition: dict[str, Any] | None, extend: bool) -> Study:
    """Return the study to run if the store holds `definition` under its name.

    A stored definition that cannot be used is replaced, with a warning.
    Raises UserError with the differences if the stored study is another one and `extend` is False, or if its search is
    another one.
    """
    if definition is None:
        return new
    try:
        old = stored_study(new.name, definition)
        found, new = describe_differences(old, new), replace(new, priors=old.priors)
    except DefinitionError as error:
        log.warning("%s", error)
        return new
    if old.search and new.search and (changed := old.search.differences(new.search)):
        raise UserError(
            f"study {new.name} exists with another search ({'; '.join(changed)}): give this one a name with --name NAME"
        )
    if extend:
        return extend_study(old, new)
    if found:
        shown = (
            [*found[: SHOWN - 2], f"{len(found) - SHOWN + 1} settings more", found[-1]] if len(found) > SHOWN else found
        )
        raise UserError(
            f"study {new.name} exists with another definition ({'; '.join(shown)}): "
            "add to it with --extend, or give a new one a name with --name NAME"
        )
    return new


def extend_study(old: Study, new: Study) -> Study:
    """Return the new study with the trials, searches and roots that only the old one has."""
    return replace(
        new,
        trials=merge_trials((*old.trials, *new.trials)),
        starts=merge_trials((*old.starts, *new.starts)),
        search=new.search or old.search,
        roots=old.roots | new.roots,
        variants=old.variants | new.variants,
    )
