"""The file study.json of a study: its desired state, as `run` wrote it last."""

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffseg.errors import DefinitionError

NAME = "study.json"
TrialName = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=250)]
Tree = dict[str, Any]  # a configuration as JSON; it is parsed on first use, since a study may have ten thousand


class Definition(BaseModel):
    """The content of study.json. Missing keys have defaults, since earlier versions wrote fewer. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    study: str = ""
    roots: dict[str, str] = {}  # data set name to root folder or URI
    command: str | None = None  # the command line that defined the study
    trials: dict[TrialName, Tree] = {}
    search: Tree | None = None
    starts: dict[TrialName, Tree] = {}
    variants: dict[str, str] = {}  # trial name to variant
    baseline: str | None = None
    priors: dict[TrialName, list[Tree]] = {}  # what searches take from other studies, by their start trials
    roles: dict[str, str] = {}  # trial name to role, of trials whose role is not "trial"

    @model_validator(mode="after")
    def _starts_belong_to_a_search(self) -> Self:
        if self.starts and self.search is None:
            raise ValueError("it has trials that searches start from, but no search")
        return self


def parse(content: bytes, place: str) -> dict[str, Any]:
    """Return the definition that a file holds. Raises DefinitionError in one sentence."""
    try:
        return Definition.model_validate_json(content).model_dump()
    except ValidationError as error:
        raise unusable_definition(place, _reason(error)) from None


def encode(definition: dict[str, Any]) -> bytes:
    """Return a definition as the content of its file."""
    return json.dumps(definition, indent=1).encode()


def unusable_definition(place: str, reason: str) -> DefinitionError:
    """Return the error for a definition, or a part of it, that cannot be used. `place` says where it is."""
    return DefinitionError(
        f"{place} cannot be used ({reason}): `diffseg run` with the study's TOML file, or with its name if it is a shipped "
        "one, writes it anew, and results that were recorded are kept"
    )


def _reason(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    message = fault["msg"].partition("\n")[0].removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return message
    where = ".".join(str(part)[:60] for part in fault["loc"]) or "the whole file"
    return f"{where}: {message[0].lower()}{message[1:]}"
