"""YAML files that describe clusters: reading them within bounds, and the form of the fields that are checked.

YAML expands aliases and merge keys when a file is read, so that a few lines may stand for more than any memory holds. Values
and levels are therefore counted before anything is made of a file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from diffseg.errors import UserError

MOST_VALUES = 20_000  # values and keys of a file, aliases expanded; the shipped files have a few hundred
DEEPEST = 50  # levels of a file
LONGEST = 10_000  # characters of a line
MOST_FAULTS = 8  # that are named
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


def _or(default: Any) -> BeforeValidator:
    """Treat an empty value of YAML as one that is left out."""
    return BeforeValidator(lambda value: default if value is None else value)


class Form(BaseModel):
    """The fields of a file that are checked, by Ray's and Kubernetes' own names; others are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


Scalar = str | int | float | bool
Texts = Annotated[list[str], _or([])]
Tree = Annotated[dict[str, Any], _or({})]


class Group(Form):
    """A group of nodes of a RayCluster."""

    rayStartParams: Annotated[dict[str, Scalar], _or({})] = {}
    template: Tree = {}


class Authentication(Form):
    """How the cluster authenticates its users."""

    mode: str | None = None


class Nodes(Form):
    """The specification of a RayCluster."""

    rayVersion: str | float | None = None
    headGroupSpec: Group | None = None
    workerGroupSpecs: Annotated[list[Group], _or([])] = []
    authOptions: Annotated[Authentication, _or({})] = Authentication()


class Job(Form):
    """The specification of a RayJob."""

    entrypoint: Annotated[str, _or("")] = ""
    rayClusterSpec: Annotated[Nodes, _or({})] = Nodes()


class RayJob(Form):
    """A file for Kubernetes that starts a cluster and runs a program on it."""

    kind: Literal["RayJob"]
    spec: Annotated[Job, _or({})] = Job()


class RayCluster(Form):
    """A file for Kubernetes that starts a cluster."""

    kind: Literal["RayCluster"]
    spec: Annotated[Nodes, _or({})] = Nodes()


class Market(Form):
    """AWS's market of an instance."""

    MarketType: str | None = None


class NodeConfig(Form):
    """A node of a cloud: how AWS and Google say that it may be taken away."""

    InstanceMarketOptions: Annotated[Market, _or({})] = Market()
    scheduling: Annotated[list[Tree] | dict[str, Any], _or([])] = []

    @property
    def spot(self) -> bool:
        """Whether the node may be taken away."""
        found = [self.scheduling] if isinstance(self.scheduling, dict) else self.scheduling
        return self.InstanceMarketOptions.MarketType == "spot" or any(one.get("preemptible") for one in found)


class NodeType(Form):
    """A type of nodes of a file for `ray up`."""

    resources: Annotated[dict[str, int | float], _or({})] = {}
    node_config: Annotated[NodeConfig, _or({})] = NodeConfig()
    min_workers: Annotated[int, _or(0)] = 0
    max_workers: Annotated[int, _or(0)] = 0


class Provider(Form):
    """The cloud, or the machines of one's own, that `ray up` uses."""

    type: str | None = None
    cache_stopped_nodes: Annotated[bool, _or(True)] = True
    head_ip: str | None = None
    worker_ips: Texts = []


class Launched(Form):
    """A file for `ray up`."""

    cluster_name: Annotated[str, Field(min_length=1)] = "default"
    provider: Provider
    head_node_type: str | None = None
    available_node_types: Annotated[dict[str, NodeType], _or({})] = {}
    head_start_ray_commands: Texts = []
    setup_commands: Texts = []


def parse_documents(path: Path, text: str) -> list[Any]:
    """Parse the documents of a YAML file, without empty ones.

    Args:
        path: Named in errors.

    Raises:
        UserError: The text is not YAML, or too large once it is expanded.
    """
    if (longest := max(map(len, text.splitlines()), default=0)) > LONGEST:
        raise UserError(
            f"{path} has a line of {longest:,} characters: lines of a cluster's file have at most {LONGEST:,}"
        )
    try:
        found = []
        loader = LOADER(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                _count_values(node, path, 0, {}, set())
                found.append(loader.construct_document(node))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise _too_deep(path) from None
    except (ValueError, OverflowError, TypeError) as error:  # dates that do not exist, numbers of thousands of digits
        raise UserError(f"{path} holds a value that cannot be read ({' '.join(str(error).split())[:120]})") from None
    return [one for one in found if one is not None]


def _count_values(node: yaml.Node, path: Path, depth: int, known: dict[int, int], above: set[int]) -> int:
    """Count the values below a node, aliases expanded. Raises UserError beyond the bounds.

    Args:
        depth: Of the node.
        known: The counts of nodes that were met before, by their ids; extended here.
        above: The ids of the nodes that contain this one.
    """
    if depth > DEEPEST:
        raise _too_deep(path)
    if id(node) in above:
        raise UserError(f"{path} has an alias to a value that contains it (line {node.start_mark.line + 1})")
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        return 1
    below = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
    count = 1 + sum(_count_values(one, path, depth + 1, known, above | {id(node)}) for one in below)
    if count > MOST_VALUES:
        raise UserError(
            f"{path} has more than {MOST_VALUES:,} values once its aliases are expanded: a cluster's file has some hundred"
        )
    known[id(node)] = count
    return count


def _too_deep(path: Path) -> UserError:
    return UserError(f"{path} is nested deeper than {DEEPEST} levels: a cluster's file has about ten")


def find_faults(form: type[Form], tree: dict[str, Any]) -> list[str]:
    """Name the values that do not have the form, a sentence each, at most MOST_FAULTS."""
    try:
        form.model_validate(tree)
    except ValidationError as error:
        return list(dict.fromkeys(_sentence(fault) for fault in error.errors(include_url=False)))[:MOST_FAULTS]
    return []


EXPECTED = {  # by the type of pydantic's error
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
}
BRANCHES = {"str", "int", "float", "bool", "constrained-str", "dict[str,any]"}  # pydantic's names of a union's members


def _sentence(fault: Any) -> str:
    """Say in one sentence what pydantic found."""
    parts = [str(part)[:60] for part in fault["loc"] if str(part) not in BRANCHES and not str(part).startswith("list[")]
    where, got = ".".join(parts) or "the file", fault["input"]
    if fault["type"] == "missing":
        return f"{where} is missing"
    kind = {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(got)) or f"{str(got)[:60]!r}"
    expected = EXPECTED.get(fault["type"]) or fault["msg"][:120]
    return f"{where} is {kind}, but {expected} belongs there"
