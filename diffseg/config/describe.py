"""Every setting of a configuration as a row: type, default, choices, meaning, and what uses it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from diffseg.config import diffusion, head, inference
from diffseg.config.data import Augment, Data
from diffseg.config.diffusion import Diffusion
from diffseg.config.experiments import FIXED, IGNORED, covers
from diffseg.config.head import Head
from diffseg.config.inference import Inference, Risk
from diffseg.config.training import Training
from diffseg.config.trial import Config
from diffseg.networks.registry import NETWORKS
from diffseg.section import Needs, Section

SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "data.augment": Augment,
    "diffusion": Diffusion,
    "head": Head,
    "training": Training,
    "inference": Inference,
    "inference.risk": Risk,
}
USERS = {
    "diffusion": diffusion.USERS,
    "head": head.USERS,
    "inference": inference.USERS,
    "inference.risk": inference.RISK_USERS,
}
TYPES = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "None",
    "object": "table",
}
LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


@dataclass(frozen=True)
class Setting:
    """A setting as lists show it."""

    path: str
    type: str  # such as "integer or None", "list of numbers"
    default: Any
    choices: tuple[Any, ...]  # the allowed values, if they can be listed
    range: str  # the allowed numbers, such as "≥ 0, < 1"
    description: str
    experiments: tuple[str, ...]  # those that use it
    networks: tuple[str, ...]  # those that use it
    needs: Needs  # choice → values; one choice must have one of its values for it to be used

    @property
    def used_by(self) -> str:
        """What uses the setting, as one phrase; empty if everything does."""
        parts = []
        if self.experiments != tuple(IGNORED):
            parts.append(", ".join(self.experiments))
        if self.networks != tuple(NETWORKS):
            parts.append(", ".join(self.networks))
        if self.needs:
            needs = (f"{path}={'|'.join(str(one).lower() for one in values)}" for path, values in self.needs.items())
            parts.append("with " + " or ".join(needs))
        return "; ".join(parts)


def settings(prefix: str = "") -> list[Setting]:
    """Return the settings whose dotted paths begin with `prefix`.

    A setting of several networks has one row for each of its defaults.
    """
    rows = [row for row in _rows(Config, "") if row.path in ("experiment", "seed")]
    rows += _network_rows()
    for name, section in SECTIONS.items():
        rows += [row for row in _rows(section, name) if row.path not in SECTIONS]
    return [row for row in rows if row.path.startswith(prefix)]


def _rows(section: type[Section], name: str) -> Iterator[Setting]:
    """Yield the rows of a section."""
    schemas = section.model_json_schema()["properties"]
    for key, field in section.model_fields.items():
        path, schema = f"{name}.{key}" if name else key, schemas[key]
        needs = {f"{name}.{choice}": values for choice, values in USERS.get(name, {}).get(key, {}).items()}
        experiments = tuple(experiment for experiment in IGNORED if _uses(experiment, path, needs))
        yield Setting(
            path=path,
            type=" or ".join(_types(schema)),
            default=dict(field.default) if schema.get("type") == "object" else field.default,
            choices=tuple(_choices(schema)),
            range=", ".join(_limits(schema)),
            description=field.description or "",
            experiments=experiments,
            networks=tuple(
                one
                for one, network in NETWORKS.items()
                if set(network.experiments) & set(experiments) and not covers(network.ignored, path)
            ),
            needs=needs,
        )


def _uses(experiment: str, path: str, needs: Needs) -> bool:
    """Return whether an experiment leaves the setting open, and a choice that uses it."""
    fixed = FIXED[experiment]
    if path in fixed or covers(IGNORED[experiment], path):
        return False
    return not needs or any(choice not in fixed or fixed[choice] in values for choice, values in needs.items())


def _network_rows() -> list[Setting]:
    """Return the rows of all networks: one for `network.name`, then one for each default of each setting."""
    own = {name: list(_rows(network, "network")) for name, network in NETWORKS.items()}
    merged: dict[tuple[Any, ...], Setting] = {}
    for name, rows in own.items():
        for row in rows:
            if row.path == "network.name":
                continue
            key = (row.path, row.type, row.default)
            users = (*merged[key].networks, name) if key in merged else (name,)
            merged[key] = replace(row, networks=users, experiments=_experiments(users))
    paths = [path for path, *_ in merged]
    default = Config().network.name
    name_row = replace(
        next(row for row in own[default] if row.path == "network.name"),
        choices=tuple(NETWORKS),
        networks=tuple(NETWORKS),
    )
    return [name_row, *sorted(merged.values(), key=lambda row: paths.index(row.path))]


def _experiments(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the experiments that any of the networks has."""
    return tuple(one for one in IGNORED if any(one in NETWORKS[name].experiments for name in networks))


def _types(schema: dict[str, Any]) -> list[str]:
    """Return the types that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return list(dict.fromkeys(one for part in schema["anyOf"] for one in _types(part)))
    if schema.get("type") == "array":
        return [f"list of {' or '.join(map(_plural, _types(item)))}" for item in _items(schema)[:1]]
    return [TYPES.get(schema.get("type", ""), "value")]


def _plural(kind: str) -> str:
    return kind.replace("list", "lists", 1) if kind.startswith("list") else f"{kind}s"


def _choices(schema: dict[str, Any]) -> list[Any]:
    """Return the values that a JSON schema, or that of a list's items, lists."""
    listed: list[Any] = schema.get("enum", [])
    return listed + [value for part in (*schema.get("anyOf", ()), *_items(schema)) for value in _choices(part)]


def _limits(schema: dict[str, Any]) -> list[str]:
    """Return the limits of a number, or of the numbers of a list."""
    own = [f"{sign} {schema[key]}" for key, sign in LIMITS.items() if key in schema]
    return own or [limit for part in (*schema.get("anyOf", ()), *_items(schema)[:1]) for limit in _limits(part)]


def _items(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of a list's items."""
    items = [*schema.get("prefixItems", ()), schema.get("items", {})]
    return [item for item in items if isinstance(item, dict) and item]
