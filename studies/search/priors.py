"""Priors of a search: complete proposals of other studies, as the study's own definition keeps them.

A resumed search needs the other studies no more.
"""

import json
from typing import Any

from pydantic import ValidationError

from diffseg.section import Section
from studies.store.study_json import unusable_definition


class Prior(Section):
    """What another study tried, and what came of it there."""

    study: str
    number: int  # of the proposal, there
    settings: dict[str, Any]  # of the own space, by their paths
    first: bool  # whether it is tried first
    losses: tuple[float, ...]  # of the own objectives; less is better
    excess: dict[str, float]  # over each of the own constraints, as a share of it
    data: (
        str | None
    )  # digest of its data, if its trial is otherwise the own one but for the seed; None: values do not compare


def parse_priors(study: str, trees: list[dict[str, Any]]) -> tuple[Prior, ...]:
    """Return the priors of one search in the definition of a study. Raises DefinitionError in one sentence."""
    try:
        return tuple(Prior.model_validate_json(json.dumps(tree)) for tree in trees)
    except ValidationError as error:
        fault = error.errors()[0]
        reason = f"priors: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}"
        raise unusable_definition(f"the definition of study {study}", reason) from None


def select_known(priors: tuple[Prior, ...], data: str | None) -> list[Prior]:
    """Return the priors whose values compare with those measured on the data of a digest."""
    return [one for one in priors if data is not None and one.data == data]
