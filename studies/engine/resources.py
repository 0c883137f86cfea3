"""The resources that a trial asks for, those that nodes have, and how many trials run side by side."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from diffseg.errors import UserError

DRIVER = "driver"  # the resource that drivers hold, so that CPUs stay whole for workers
LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves a cluster's configuration on its head
NODES_START = 600.0  # seconds that nodes which always run may take to start


@dataclass(frozen=True)
class Resources:
    """The resources that one trial asks for."""

    cpus: float = 1.0  # of each worker
    gpus: float | None = None  # of each worker; None: one where the cluster has any
    concurrency: int | None = None  # trials side by side, at most; None: as many as fit
    workers: int = 1  # that train the trial together, each on a part of every batch
    labels: dict[str, str] = field(default_factory=dict)  # that the workers' nodes must have
    memory: int = 0  # bytes of each worker that has no GPU; less if no node has as much


def allocate(resources: Resources, nodes: list[dict[str, float]], on_demand: bool = False) -> tuple[Resources, int]:
    """Return what each trial gets, and how many trials run side by side.

    Args:
        nodes: The resources of every node.
        on_demand: Whether more nodes may be started. Trials that fit on no node so far are then allowed, if `gpus` and
            `concurrency` are given.

    Raises:
        UserError: A trial fits on no node.
    """
    gpus = resources.gpus if resources.gpus is not None else float(any(node.get("GPU") for node in nodes))
    largest = max((node.get("memory", math.inf) for node in nodes), default=0)
    share = replace(resources, gpus=gpus, memory=0 if gpus else int(min(resources.memory, largest)))
    concurrent = _count_workers(share, nodes) // share.workers
    if concurrent:
        return share, min(concurrent, resources.concurrency or concurrent)
    if on_demand and resources.concurrency and resources.gpus is not None:
        return share, resources.concurrency
    raise _no_node(share, nodes)


def _count_workers(share: Resources, nodes: list[dict[str, float]]) -> int:
    """Count the workers that fit on all nodes together."""
    amounts = {"CPU": share.cpus, "GPU": share.gpus, "memory": share.memory}
    needed = {kind: amount for kind, amount in amounts.items() if amount}
    available = [{"memory": math.inf} | node for node in nodes]
    return sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in needed.items()) for node in available)


def _no_node(share: Resources, nodes: list[dict[str, float]]) -> UserError:
    there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    asking = f"each of a trial's {share.workers} workers" if share.workers > 1 else "a trial"
    labelled = "".join(f", on a node labelled {key}={value}" for key, value in share.labels.items())
    return UserError(
        f"{asking} asks for {share.cpus:g} CPUs and {share.gpus:g} GPUs{labelled}, but no node has them "
        f"(there are: {there or 'none'}): give smaller --cpus, --gpus or --workers, or if nodes are started on demand, "
        "--gpus and --concurrency"
    )


def read_launcher_config() -> dict[str, Any]:
    """Load the configuration of the cluster whose head this machine is; empty if `ray up` did not start it."""
    try:
        return yaml.safe_load(LAUNCHED.expanduser().read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return {}


def find_nodes(ray: Any, launcher: dict[str, Any], labels: dict[str, str]) -> list[dict[str, float]]:
    """Return the resources of all nodes with the labels: those that run, and those that the launcher may still start.

    Nodes that the launcher always runs (min_workers) are waited for, at most NODES_START seconds.

    Args:
        launcher: The configuration that `read_launcher_config` returns.
    """
    types = {
        name: one
        for name, one in (launcher.get("available_node_types") or {}).items()
        if labels.items() <= (one.get("labels") or {}).items()
    }
    running = _wait_for_workers(ray, sum(one.get("min_workers", 0) for one in types.values()), labels)
    workers = [node for node in running if DRIVER not in node]
    startable = [
        one["resources"]
        for name, one in types.items()
        if name != launcher["head_node_type"]
        for _ in range(one["max_workers"])
    ][: launcher.get("max_workers")]
    return [node for node in running if DRIVER in node] + max(workers, startable, key=len)


def _wait_for_workers(ray: Any, count: int, labels: dict[str, str]) -> list[dict[str, float]]:
    """Wait for `count` nodes without drivers; return the resources of all nodes with the labels."""
    end = time.monotonic() + NODES_START
    while True:
        alive = [node for node in ray.nodes() if node["Alive"] and labels.items() <= (node.get("Labels") or {}).items()]
        running = [node["Resources"] for node in alive]
        if sum(DRIVER not in node for node in running) >= count or time.monotonic() > end:
            return running
        time.sleep(1)
