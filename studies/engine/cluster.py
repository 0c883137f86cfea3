"""Clusters: files that describe them, checked before anything is started, and studies submitted to them.

Three kinds of files: for `ray up` (YAML), RayJobs of Kubernetes (YAML, ray.io/v1), and SLURM's batch scripts.
"""

import contextlib
import io
import json
import logging
import platform
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from diffseg.errors import UserError
from studies.definition import textfile
from studies.engine import clusterfile
from studies.engine.clusterfile import Launched, NodeType, RayCluster, RayJob
from studies.engine.connection import DRIVER

PACKAGES = ("diffseg", "search_spaces", "studies", "analysis")  # what a job carries to all nodes
JOBS = "http://127.0.0.1:8265"  # where a head takes jobs
PLACEHOLDER = re.compile(r"CHANGE[-_ ]?ME|YOUR[-_][A-Z]+|<[A-Za-z][A-Za-z _-]*>|/path/to/|\bTODO\b", re.IGNORECASE)
RAY_PIN = re.compile(
    r"\bray(?:\[[\w,]+\])?\s*(?:==|>=|~=|<=|<|>)\s*([\d.]+\w*)|rayproject/ray(?:-ml)?:([\w.-]+)|/ray-([\d.]+\w*)-cp"
)
PYTHON_PIN = re.compile(r"--python[ =](3\.\d+)|python(3\.\d+)\b|-py(3\d+)\b|-cp(3\d+)-")
NIGHTLY = re.compile(r"ray-wheels/latest|\.dev0-|rayproject/ray(?:-ml)?:(?:nightly|latest)")
STORE = re.compile(r"DIFFSEG_STORE(?:=|[\"']?,?\s*value:\s*)[\"']?([^\s\"';,}]+)|--store[ =][\"']?([^\s\"';]+)")
MOUNT = re.compile(r"\bmount\b.*?\s(/[\w./-]+)\s*$|mountPath:\s*(/[\w./-]+)", re.MULTILINE)


def check(path: Path) -> list[str]:
    """What is wrong with a cluster's file, a sentence each; nothing is started or asked over the network.

    Raises UserError if the file cannot be read, or is of no kind that is known.
    """
    text = _read(path)
    found = _slurm(text) if text.startswith("#!") else _yaml(path, text)
    return [f"{path}: {problem}" for problem in [*_placeholders(text), *_versions(text), *found]]


def _read(path: Path) -> str:
    try:
        return textfile.read_text(path, "a cluster's file")
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read (there is no such file): give a cluster's file") from None


def _yaml(path: Path, text: str) -> list[str]:
    documents = clusterfile.documents(path, text)
    if not documents or not all(isinstance(one, dict) for one in documents):
        raise UserError(f"{path} describes no cluster: a YAML file for `ray up`, a RayJob, or a SLURM script does")
    for kind, form in (("RayJob", RayJob), ("RayCluster", RayCluster)):
        for tree in documents:
            if tree.get("kind") == kind:
                return clusterfile.faults(form, tree) or _kubernetes(form.model_validate(tree), text)
    if "provider" not in documents[0]:
        raise UserError(f"{path} describes no cluster: it has neither a provider, for `ray up`, nor the kind RayJob")
    return clusterfile.faults(Launched, documents[0]) or _launched(documents[0], text)


def _launched(tree: dict[str, Any], text: str) -> list[str]:
    """A file for `ray up`: Ray's own schema and preparation, and what that lets pass."""
    config = Launched.model_validate(tree)
    provider, types = config.provider, config.available_node_types
    local = provider.type == "local"
    if local and (provider.head_ip in provider.worker_ips or len(set(provider.worker_ips)) < len(provider.worker_ips)):
        return ["provider.head_ip and provider.worker_ips name a machine twice, but every machine is one node"]
    prepared, problem = _prepared(tree)
    if problem:
        return [problem]
    start, found = " ".join(prepared.get("head_start_ray_commands") or []), []
    head = types.get(config.head_node_type or "", NodeType())
    if DRIVER not in head.resources and DRIVER not in start:
        where = "to `ray start --head`" if local else "of the head's node type"
        found.append(
            f"the head has no resource '{DRIVER}', where the drivers of trials go: add {{\"{DRIVER}\": 1000}} to the "
            f"resources {where}"
        )
    elif any(DRIVER in one.resources for name, one in types.items() if name != config.head_node_type):
        found.append(
            f"nodes other than the head have the resource '{DRIVER}': drivers must not be on nodes that may go"
        )
    if head.node_config.spot:
        found.append("the head is a spot node, with which the whole cluster goes: leave out its InstanceMarketOptions")
    if head.max_workers:
        found.append(
            f"the head's node type has max_workers {head.max_workers}: nodes that train need a type of their own"
        )
    if types and not any((one.get("max_workers") or 0) for one in prepared["available_node_types"].values()):
        found.append("no node type may have any workers (max_workers is 0 everywhere), so nothing can train")
    if provider.type == "aws" and provider.cache_stopped_nodes:
        found.append("provider.cache_stopped_nodes is not false: nodes that are given back go on costing their disks")
    for key in ("setup_commands", *(() if local else ("available_node_types",))):
        if key not in tree:
            found.append(f"it has no {key}, so Ray's own would be taken, which know nothing of diffseg")
    return [*found, *_store(text, local), *_authentication(text)]


def _prepared(config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Ray's own preparation of a file, and what it says is wrong. Ray's messages of success are not shown."""
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
        said = [line for line in output.getvalue().splitlines() if line.strip()]
        return {}, " ".join(said[-1:]) or "Ray refuses it"
    except Exception as error:  # Ray raises all kinds, KeyErrors among them
        return {}, f"Ray cannot prepare it ({type(error).__name__}: {error})"
    return prepared, None


def _kubernetes(job: RayJob | RayCluster, text: str) -> list[str]:
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
    version, pins = nodes.rayVersion, _pins(_code(text))
    if version is not None and pins and str(version) not in pins:
        found.append(f"rayVersion is {version}, but the image has Ray {', '.join(pins)}")
    token = nodes.authOptions.mode == "token"
    return [*found, *_store(text, local=False), *([] if token else _authentication(text))]


def _slurm(text: str) -> list[str]:
    found = []
    if "#SBATCH" not in text:
        found.append("it has no #SBATCH lines: a script for sbatch has")
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
    return [*found, *_store(text, local=True), *_authentication(text)]


def _placeholders(text: str) -> list[str]:
    found = []
    for number, line in enumerate(_code(text).splitlines(), 1):
        if match := PLACEHOLDER.search(line):
            found.append(f"line {number} still has the placeholder '{match[0]}': {line.strip()[:100]}")
    return found


def _versions(text: str) -> list[str]:
    import ray

    code = _code(text)
    if match := NIGHTLY.search(code):
        return [f"it installs a Ray that changes from day to day ('{match[0]}'): pin ray=={ray.__version__}"]
    found, ours = [], platform.python_version().rpartition(".")[0]
    pins = _pins(code)
    if others := [pin for pin in pins if pin != ray.__version__]:
        found.append(
            f"it has Ray {', '.join(others)}, but this machine has {ray.__version__}: all nodes and it need the same"
        )
    elif not pins and "pip install" in code:
        found.append(f"it does not say which Ray is installed: pin ray[default,tune,train]=={ray.__version__}")
    pythons = {_dotted(next(filter(None, match))) for match in PYTHON_PIN.findall(code)}
    if others := sorted(pythons - {ours}):
        found.append(f"it has Python {', '.join(others)}, but this machine has {ours}: all nodes and it need the same")
    return found


def _code(text: str) -> str:
    """A file whose comments are empty lines."""
    return "\n".join("" if line.lstrip().startswith("#") else line for line in text.splitlines())


def _pins(text: str) -> list[str]:
    found = [next(filter(None, match)) for match in RAY_PIN.findall(text)]
    return list(dict.fromkeys(re.sub(r"-(py\d+|gpu|cpu|cu\d+|aarch64)", "", pin) for pin in found))


def _dotted(python: str) -> str:
    return python if "." in python else f"{python[0]}.{python[1:]}"


def _store(text: str, local: bool) -> list[str]:
    """local: of machines on which file systems may be mounted already."""
    code = _code(text)
    stores = {next(filter(None, match)) for match in STORE.findall(code)}
    if not stores:
        return [
            "it names no store: set DIFFSEG_STORE to a URI such as s3://BUCKET/studies, or to a folder that all nodes mount"
        ]
    mounted = [next(filter(None, match)) for match in MOUNT.findall(code)]
    found = []
    for store in sorted(stores):
        if "://" in store or any(Path(store).is_relative_to(point) for point in mounted):
            continue
        if not store.startswith(("/", "$", "~")):
            found.append(f"the store {store} is not an absolute path, so every node would have its own")
        elif not local or store.startswith(("/tmp", "/var/tmp", "/dev/shm", "/root")):
            found.append(f"the store {store} is a folder of each node's own: mount a shared one there, or give a URI")
    return found


def _authentication(text: str) -> list[str]:
    if re.search(r"RAY_AUTH_MODE[=:\s\"']+(token|disabled)|name:\s*RAY_AUTH_MODE", text):
        return []
    return [
        "it does not set RAY_AUTH_MODE: with token, only who has the token may use the cluster, and all nodes agree on it"
    ]


def submit(path: Path, arguments: tuple[str, ...], on_line) -> str:
    """Have a cluster's head run `diffseg run` as a Ray job, which does not depend on this machine; return the job's name.

    The code and, if there is one, the study's file go with the job to all nodes. Raises UserError if the cluster's file has
    problems, or if its head cannot be reached.
    """
    from ray.autoscaler import sdk

    if problems := check(path):
        raise UserError("; ".join(problems))
    text = _read(path)
    if text.startswith("#!"):
        raise UserError(f"{path} is a SLURM script: `sbatch {path}` submits it")
    config, job = clusterfile.documents(path, text)[0], f"diffseg-{uuid4().hex[:8]}"
    if "provider" not in config:
        raise UserError(f"{path} is a {config.get('kind')} of Kubernetes: `kubectl apply -f {path}` submits it")
    with tempfile.TemporaryDirectory() as carried:
        folder = Path(carried) / job
        line = shlex.join(["python", "-m", "studies", "run", *_carried(folder, arguments), "--address", "auto"])
        remote = f"ray job submit --address {JOBS} --no-wait --submission-id {job} --working-dir /tmp/{job} -- {line}"
        output = io.StringIO()
        try:
            with _quiet(output):
                sdk.rsync(config, source=f"{folder}/", target=f"/tmp/{job}/", down=False)
                said = sdk.run_on_cluster(config, cmd=remote, with_output=True)
        except (SystemExit, Exception) as error:
            raise UserError(_refusal(error, output.getvalue(), path, config)) from None
    on_line(said if isinstance(said, str) else said.decode(errors="replace"))
    return job


@contextlib.contextmanager
def _quiet(output: io.StringIO):
    """What Ray's launcher prints goes into `output`, and what it and the cloud's packages log, tracebacks included, nowhere."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _refusal(error: BaseException, output: str, path: Path, config: dict[str, Any]) -> str:
    """Why Ray's launcher gave up, in one sentence."""
    name = config.get("cluster_name", "the cluster")
    chain, one = [], error
    while one is not None and len(chain) < 10:
        chain.append(one)
        one = one.__cause__ or one.__context__
    if any("credential" in f"{type(one).__name__} {one}".lower() for one in chain):
        cloud = config["provider"].get("type")
        how = {"aws": "`aws configure`", "gcp": "`gcloud auth application-default login`"}.get(
            cloud, "the cloud's program"
        )
        return (
            f"this machine has no valid credentials of {cloud}, so the head of {name} cannot be found: {how} sets them"
        )
    if missing := next((one for one in chain if isinstance(one, ImportError)), None):
        return f"a package that Ray's launcher needs is missing here ({_line(str(missing))}): install it"
    printed = [_line(line) for line in output.splitlines() if line.strip()]
    said = _line(str(error)) if not isinstance(error, SystemExit) and str(error) else (printed or [""])[-1]
    reason = f"{type(error).__name__}: {said}" if said else f"Ray's launcher gives no reason but {type(error).__name__}"
    return f"the head of {name} cannot be reached or refuses the job ({reason}): `ray up {path}` starts it"


def _line(text: str) -> str:
    """Text of a terminal on one line, without colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:300]


def _carried(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    """Put the code, and the study's file if it is one, into the folder; return the arguments as the head is to have them."""
    root = Path(__file__).parent.parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    words = list(arguments)
    for place, word in enumerate(words):
        if word.endswith(".toml") and Path(word).is_file():
            shutil.copy(word, folder / Path(word).name)
            words[place] = Path(word).name
    return words
