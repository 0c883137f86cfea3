"""The file study.json of a store: a study's desired state, as `run` wrote it last."""

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffseg.errors import DefinitionError

NAME = "study.json"
TrialName = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=250)]
Tree = dict[str, Any]  # a configuration as JSON, which is checked when it is used: a study may have ten thousand


class Definition(BaseModel):
    """What is missing has its default, since earlier versions wrote less; what is unknown is ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    study: str = ""
    roots: dict[str, str] = {}  # of data sets, by name
    command: str | None = None  # that made it
    trials: dict[TrialName, Tree] = {}
    search: Tree | None = None
    starts: dict[TrialName, Tree] = {}
    variants: dict[str, str] = {}  # of trials, by name
    baseline: str | None = None

    @model_validator(mode="after")
    def _starts_belong_to_a_search(self) -> Self:
        if self.starts and self.search is None:
            raise ValueError("it has trials that searches start from, but no search")
        return self


def parse(content: bytes, place: str) -> dict[str, Any]:
    """The definition in a file's content. Raises DefinitionError in one sentence."""
    try:
        return Definition.model_validate_json(content).model_dump()
    except ValidationError as error:
        raise unusable(place, _reason(error)) from None


def content(definition: dict[str, Any]) -> bytes:
    return json.dumps(definition, indent=1).encode()


def unusable(place: str, reason: str) -> DefinitionError:
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
