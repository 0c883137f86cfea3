"""The form of a study file: which tables it has and what may stand in them. What they mean: studies/study.py."""

import datetime
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from typing_extensions import TypeAliasType  # which pydantic needs in any case

from diffseg.errors import UserError
from studies.definition import textfile

PARTS = 16  # of a dotted key: tomllib's memory grows with the square of the number
KEY_PART = r"""(?:(?<![\w-])[\w-]+|"[^"\n]*"|'[^'\n]*')"""
LONG_KEY = re.compile(rf"(?:{KEY_PART}[ \t]*\.[ \t]*){{{PARTS}}}")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a table"}


def _kind(value: Any) -> str | None:
    return f"<{type(value).__name__}>" if type(value) in KINDS else None


Leaf = TypeAliasType(
    "Leaf",
    Annotated[
        Annotated[bool, Tag("<bool>")]
        | Annotated[int, Tag("<int>")]
        | Annotated[float, Tag("<float>")]
        | Annotated[str, Tag("<str>")]
        | Annotated[list["Leaf"], Tag("<list>")]
        | Annotated[dict[str, "Leaf"], Tag("<dict>")],
        Discriminator(_kind),
    ],
)
Table = dict[str, Leaf]  # settings, nested or by their dotted paths
Experiment = Literal["e1", "e2", "e3", "e4"]
Seed = Annotated[int, Field(ge=0, le=2**53)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class SearchTable(BaseModel):
    """The table [search]; what else it holds are settings of the search (studies/search.py)."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Leaf]

    data: list[str] = []
    start: Table = {}


class StudyFile(_Form):
    """A study file's tables. All may be left out."""

    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    experiments: list[Experiment] = ["e1", "e2", "e3", "e4"]
    baseline: str | None = None
    all: Table = {}
    network: dict[str, Table] = {}
    data: dict[str, Table] = {}
    experiment: dict[Experiment, Table] = {}
    variant: dict[str, Table] = {}
    search: SearchTable | None = None


def read_tables(path: Path) -> dict[str, Any]:
    """The tables that a study file has. Raises UserError, in one sentence that names the file and the key."""
    text = textfile.read_text(path, "a study file")
    if found := LONG_KEY.search(text):
        line = text[: found.start()].count("\n") + 1
        raise UserError(
            f"line {line} of {path} has a key of more than {PARTS} parts: keys name settings, which have fewer"
        )
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: tables of settings have a few levels") from None
    except ValueError as error:  # a number of thousands of digits, or a date that does not exist
        raise UserError(f"{path} holds a value that cannot be read ({str(error)[:120]})") from None
    try:
        return StudyFile.model_validate(tree).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise UserError(_sentence(path, error)) from None


def _sentence(path: Path, error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    unknown = [str(fault["loc"][0])[:60] for fault in faults if fault["type"] == "extra_forbidden"]
    if unknown:
        allowed = ", ".join(sorted(StudyFile.model_fields))
        return f"{path} has unknown tables {', '.join(sorted(unknown)[:8])}: allowed are {allowed}"
    fault = faults[0]
    parts = [str(part)[:60] for part in fault["loc"] if str(part) not in {f"<{kind.__name__}>" for kind in KINDS}]
    key = ".".join(part for part in parts if part != "[key]")
    return f"{path}: {key}: got {_described(fault['input'])}; {_allowed(fault)}"


def _allowed(fault: dict) -> str:
    context = fault.get("ctx", {})
    match fault["type"]:
        case "dict_type" | "model_type" | "model_attributes_type":
            return "a table belongs there"
        case "list_type":
            return "a list belongs there"
        case "int_type":
            return "a whole number belongs there"
        case "string_type":
            return "text belongs there"
        case "union_tag_not_found" | "union_tag_invalid":
            return f"allowed are {', '.join(KINDS.values())}"
        case "literal_error":
            return f"allowed are {context['expected']}"
        case "too_short":
            return "at least one value belongs there"
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]}"[:200]


def _described(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return f"the {'time' if isinstance(value, datetime.time) else 'date'} {value}"
    if isinstance(value, dict | list):
        return KINDS[type(value)] if value else f"an empty {'table' if isinstance(value, dict) else 'list'}"
    try:
        return repr(value)[:80]
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
