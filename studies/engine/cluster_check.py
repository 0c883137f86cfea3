"""Checks of files that describe clusters, before anything is started.

There are three kinds of files: for `ray up` (YAML), for Kubernetes (YAML of a RayJob or a RayCluster, ray.io/v1), and batch
scripts of SLURM.
"""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

from diffseg.errors import UserError
from diffseg.suggestions import did_you_mean_path
from studies.definition import textfile
from studies.engine import clusterfile
from studies.engine.cluster_settings import (
    authentication_problems,
    find_pins,
    placeholder_problems,
    store_problems,
    version_problems,
    without_comments,
)
from studies.engine.clusterfile import Launched, NodeType, RayCluster, RayJob
from studies.engine.resources import DRIVER


def check(path: Path) -> list[str]:
    """Return what is wrong with a cluster's file, a sentence each. Nothing is started or asked over the network.

    Raises:
        UserError: The file cannot be read or is of no known kind.
    """
    text = read(path)
    found = _slurm_problems(text) if text.startswith("#!") else _yaml_problems(path, text)
    return [f"{path}: {problem}" for problem in [*placeholder_problems(text), *version_problems(text), *found]]


def read(path: Path) -> str:
    """Read a cluster's file. Raises UserError if it cannot be read."""
    try:
        return textfile.read_text(path, "a cluster's file")
    except FileNotFoundError:
        raise UserError(
            f"{path} cannot be read (there is no such file{did_you_mean_path(path)}): give a cluster's file"
        ) from None


def _yaml_problems(path: Path, text: str) -> list[str]:
    documents = clusterfile.parse_documents(path, text)
    if not documents or not all(isinstance(one, dict) for one in documents):
        raise UserError(f"{path} describes no cluster: a YAML file for `ray up`, a RayJob, or a SLURM script does")
    forms: tuple[tuple[str, type[RayJob] | type[RayCluster]], ...] = (("RayJob", RayJob), ("RayCluster", RayCluster))
    for kind, form in forms:
        for tree in documents:
            if tree.get("kind") == kind:
                return clusterfile.find_faults(form, tree) or _kubernetes_problems(form.model_validate(tree), text)
    if "provider" not in documents[0]:
        raise UserError(f"{path} describes no cluster: it has neither a provider, for `ray up`, nor the kind RayJob")
    return clusterfile.find_faults(Launched, documents[0]) or _launched_problems(documents[0], text)


def _launched_problems(tree: dict[str, Any], text: str) -> list[str]:
    """Check a file for `ray up`: by Ray's own schema, and for what that lets pass."""
    config = Launched.model_validate(tree)
    provider, local = config.provider, config.provider.type == "local"
    if local and (provider.head_ip in provider.worker_ips or len(set(provider.worker_ips)) < len(provider.worker_ips)):
        return ["provider.head_ip and provider.worker_ips name a machine twice, but every machine is one node"]
    prepared, problem = _prepare(tree)
    if problem:
        return [problem]
    found = [*_driver_problems(config, prepared), *_head_problems(config)]
    if config.available_node_types and not any(
        (one.get("max_workers") or 0) for one in prepared["available_node_types"].values()
    ):
        found.append("no node type may have any workers (max_workers is 0 everywhere), so nothing can train")
    if provider.type == "aws" and provider.cache_stopped_nodes:
        found.append("provider.cache_stopped_nodes is not false: stopped nodes still cost their disks")
    for key in ("setup_commands", *(() if local else ("available_node_types",))):
        if key not in tree:
            found.append(f"it has no {key}, so Ray's own would be taken, which do not install diffseg")
    return [*found, *store_problems(text, local), *authentication_problems(text)]


def _driver_problems(config: Launched, prepared: dict[str, Any]) -> list[str]:
    """Check that the head, and no other node, has the resource of drivers."""
    head = _head_type(config)
    if DRIVER not in head.resources and DRIVER not in " ".join(prepared.get("head_start_ray_commands") or []):
        where = "to `ray start --head`" if config.provider.type == "local" else "of the head's node type"
        return [
            f"the head has no resource '{DRIVER}', where the drivers of trials go: add {{\"{DRIVER}\": 1000}} to the "
            f"resources {where}"
        ]
    others = [one for name, one in config.available_node_types.items() if name != config.head_node_type]
    if any(DRIVER in one.resources for one in others):
        return [f"nodes other than the head have the resource '{DRIVER}': drivers must not be on nodes that may go"]
    return []


def _head_problems(config: Launched) -> list[str]:
    """Check that the head stays, and does not train."""
    head, found = _head_type(config), []
    if head.node_config.spot:
        found.append("the head is a spot node, with which the whole cluster goes: leave out its InstanceMarketOptions")
    if head.max_workers:
        found.append(
            f"the head's node type has max_workers {head.max_workers}: nodes that train need a type of their own"
        )
    return found


def _head_type(config: Launched) -> NodeType:
    return config.available_node_types.get(config.head_node_type or "", NodeType())


def _prepare(config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Prepare a configuration as Ray does; return it and what Ray says is wrong. Ray's messages of success are dropped."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            prepared = prepare_config(json.loads(json.dumps(config)))
            validate_config(prepared)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        return {}, f"{where}: {error.message.splitlines()[0]}"
    except SystemExit:
        printed = [line for line in output.getvalue().splitlines() if line.strip()]
        return {}, " ".join(printed[-1:]) or "Ray refuses it"
    except Exception as error:  # Ray raises all kinds, KeyErrors among them
        return {}, f"Ray cannot prepare it ({type(error).__name__}: {error})"
    return prepared, None


def _kubernetes_problems(job: RayJob | RayCluster, text: str) -> list[str]:
    nodes = job.spec.rayClusterSpec if isinstance(job, RayJob) else job.spec
    head, found = nodes.headGroupSpec, []
    if head is None:
        return ["spec.rayClusterSpec has no headGroupSpec"]
    parameters = head.rayStartParams
    if DRIVER not in str(parameters.get("resources", "")):
        found.append(
            f"the head has no resource '{DRIVER}', where the drivers of trials go: give it the rayStartParams "
            f'resources: \'"{{\\"{DRIVER}\\": 1000}}"\''
        )
    if str(parameters.get("num-cpus")) != "0":
        found.append('the head would train, too: give it the rayStartParams num-cpus: "0"')
    if not nodes.workerGroupSpecs:
        found.append("there are no workerGroupSpecs, so nothing can train")
    if isinstance(job, RayJob) and "diffseg" not in job.spec.entrypoint:
        found.append("spec.entrypoint runs no diffseg")
    version, pins = nodes.rayVersion, find_pins(without_comments(text))
    if version is not None and pins and str(version) not in pins:
        found.append(f"rayVersion is {version}, but the image has Ray {', '.join(pins)}")
    token = nodes.authOptions.mode == "token"
    return [*found, *store_problems(text, local=False), *([] if token else authentication_problems(text))]


def _slurm_problems(text: str) -> list[str]:
    found = []
    if "#SBATCH" not in text:
        found.append("it has no #SBATCH lines, so it is no script for sbatch")
    if "symmetric-run" not in text:
        found.append("it does not start Ray on all nodes: `srun ray symmetric-run` does")
    if not re.search(r"#SBATCH\s+(--ntasks-per-node|--tasks-per-node)=1\b", text):
        found.append("it does not start Ray once a node: add #SBATCH --ntasks-per-node=1")
    if "#SBATCH --exclusive" not in text:
        found.append(
            "it may share its nodes, where `ray symmetric-run` meets other people's Ray: add #SBATCH --exclusive"
        )
    if not re.search(r"#SBATCH\s+--signal=", text):
        found.append("trials would be killed at the time limit: #SBATCH --signal=TERM@120 lets them leave a checkpoint")
    if DRIVER not in text:
        found.append(
            f"the nodes have no resource '{DRIVER}', where the drivers of trials go: add --resources='{{\"{DRIVER}\": 1000}}'"
        )
    return [*found, *store_problems(text, local=True), *authentication_problems(text)]
