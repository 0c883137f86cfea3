"""The study files that are shipped with the program."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent


def shipped_studies() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def is_study_source(source: str) -> bool:
    """Return whether `source` names a shipped study or is the path of a TOML file."""
    return source.endswith(".toml") or source in shipped_studies()


def study_path(source: str) -> Path:
    """Return the file of a shipped study's name or of a TOML file's path. It need not exist."""
    return Path(source) if source.endswith(".toml") else FOLDER / f"{source}.toml"


def data_settings(name: str, root: str = "") -> dict[str, Any]:
    """Return the shipped studies' settings of a data set of this name, or else the layout that lies at its root."""
    from diffseg.config.leaves import flat
    from studies.definition.folder_settings import guess_layout

    return flat({"data": shipped_data_sets().get(name, {}).get("data", {"layout": guess_layout(root)})})


def layout_of(name: str, root: str) -> str:
    """Return the layout of a data set with a root: that of its name in the shipped studies, or else what lies there."""
    from studies.definition.folder_settings import guess_layout

    known: str = data_settings(name, root)["data.layout"]
    return guess_layout(root) if known == "synthetic" else known


@cache
def shipped_data_sets() -> dict[str, Any]:
    """Return the tables of the shipped studies' data sets, by name."""
    tables: dict[str, Any] = {}
    for study in ("quickstart", "paper"):
        tables |= tomllib.loads(study_path(study).read_text(encoding="utf-8"))["data"]
    return tables


def describe_shipped() -> dict[str, str]:
    """Return the first sentence of the comment that each shipped study file begins with, by the study's name."""
    return {name: _first_sentence(study_path(name).read_text(encoding="utf-8")) for name in shipped_studies()}


def _first_sentence(text: str) -> str:
    """Return the first sentence of the comment lines at the start of a file."""
    words: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        for word in line.removeprefix("#").split():
            words.append(word)
            if word[-1] in ".?!" and word not in ("al.", "vs."):
                return " ".join(words)
    return " ".join(words)
