"""The form of a study file: the tables that it has, and the values that they may hold.

    seeds = [0, 1]
    experiments = ["e1", "e2"]
    [all]                    # settings of every trial, by their dotted path
    training.steps = 400
    [network.ensemdiff]      # one table for each network, data set or experiment: settings of those trials only
    network.width = 32
    [data.synthetic-large]
    data.kind = "large"
    [experiment.e1]
    training.optimiser = "adam"
    [variant.x0]             # optional: a trial is made for each variant
    diffusion.target = "x0"
    [search]                 # optional: a search (studies/search/search.py)
    space = "weighting"      # or a table [search.space] (search_spaces/space.py)
    data = ["synthetic-large"]  # all data sets by default
    stop.hours = 8           # optional rules to end early (studies/search/stopping.py)
    warm_start = ["other"]   # optional: studies whose best is tried first (studies/search/warm_start.py)
    [search.start]           # settings of the trial that the search starts from
    data.held_out = 0.2

A trial is made for every network, data set, experiment, variant and seed (expansion.py). Later tables override earlier
ones in the order all, network, data, experiment, variant, and the command line's settings override all of them.

- `preset = "NAME"` in a table stands for the network's published settings of that name (presets.toml in its folder).
- A setting of the command line that only some of the networks have applies to those alone.
- Feed-forward networks have trials of E1 only. Trials that differ only in settings that their experiment does not use are
  one trial.
- The trials that others need, the members of a deep ensemble and the E3 trials of a fingerprint, are added.
- `baseline = "x0"` names the variant that the others are compared with.
- A search starts from what would be an E2 trial, whether or not `experiments` lists any.
"""

import datetime
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypeAliasType  # which pydantic needs in any case

from diffseg.errors import UserError
from studies.definition import textfile

PARTS = 16  # parts of a dotted key, at most: tomllib's memory grows with the square of their number
KEY_PART = r"""(?:(?<![\w-])[\w-]+|"[^"\n]*"|'[^'\n]*')"""
LONG_KEY = re.compile(rf"(?:{KEY_PART}[ \t]*\.[ \t]*){{{PARTS}}}")
DOTTED_KEY = rf"{KEY_PART}(?:[ \t]*\.[ \t]*{KEY_PART})*"
HEADER = re.compile(rf"[ \t]*\[(?P<list>\[)?[ \t]*(?P<key>{DOTTED_KEY})[ \t]*\]")
ASSIGNMENT = re.compile(rf"[ \t]*(?P<key>{DOTTED_KEY})[ \t]*=")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a table"}


def _kind(value: Any) -> str | None:
    """Return the tag of a value's type in Leaf; None for a type that settings do not have."""
    return f"<{type(value).__name__}>" if type(value) in KINDS else None


if TYPE_CHECKING:  # mypy does not know recursive aliases with a discriminator
    Leaf = bool | int | float | str | list["Leaf"] | dict[str, "Leaf"]
else:
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


class SearchTable(BaseModel):
    """The table [search]. Its other keys are settings of the search (studies/search/search.py)."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Leaf]

    data: list[str] = []
    start: Table = {}


class StudyFile(BaseModel):
    """The tables of a study file, all optional."""

    model_config = ConfigDict(strict=True, extra="forbid")

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
    """Return the tables that a study file has. Raises UserError, in one sentence that names the file and the key."""
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


def locate(path: Path, key: str) -> str:
    """Return "FILE, line N: " for the line of a study file that sets a key, or a table that the key lies in.

    Returns an empty text if the file does not set it: the command line may.
    """
    lines = _key_lines(path.read_text(encoding="utf-8-sig"))
    parts = key.split(".")
    for count in range(len(parts), 1, -1):
        if line := lines.get(".".join(parts[:count])):
            return f"{path}, line {line}: "
    return ""


def _key_lines(text: str) -> dict[str, int]:
    """Return the first line of each key of a TOML text, by the whole dotted key; the tables of a list are numbered from 1."""
    found: dict[str, int] = {}
    table, counts = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if match := HEADER.match(line):
            table = _join_key(match["key"])
            if match["list"]:
                counts[table] = counts.get(table, 0) + 1
                table = f"{table}.{counts[table]}"
            found.setdefault(table, number)
        elif match := ASSIGNMENT.match(line):
            found.setdefault(f"{table}.{_join_key(match['key'])}".lstrip("."), number)
    return found


def _join_key(key: str) -> str:
    """Return a dotted key of TOML without spaces and quotes."""
    return ".".join(part.strip("\"'") for part in re.findall(KEY_PART, key))


def _sentence(path: Path, error: ValidationError) -> str:
    """Return the first fault of a study file in one sentence; of unknown tables, all."""
    faults = error.errors(include_url=False)
    unknown = [str(fault["loc"][0])[:60] for fault in faults if fault["type"] == "extra_forbidden"]
    if unknown:
        allowed = ", ".join(sorted(StudyFile.model_fields))
        return f"{path} has unknown tables {', '.join(sorted(unknown)[:8])}: allowed are {allowed}"
    fault = faults[0]
    parts = [str(part)[:60] for part in fault["loc"] if str(part) not in {f"<{kind.__name__}>" for kind in KINDS}]
    key = ".".join(part for part in parts if part != "[key]")
    return f"{path}: {key}: got {_describe(fault['input'])}; {_allowed(fault)}"


def _allowed(fault: ErrorDetails) -> str:
    """Return what belongs in the place of a fault, as a clause."""
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


def _describe(value: Any) -> str:
    """Return a faulty value as it is shown in a message."""
    if isinstance(value, datetime.date | datetime.time):
        return f"the {'time' if isinstance(value, datetime.time) else 'date'} {value}"
    if isinstance(value, dict | list):
        return KINDS[type(value)] if value else f"an empty {'table' if isinstance(value, dict) else 'list'}"
    try:
        return repr(value)[:80]
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
