"""The submission of a study to the head of a cluster, as a Ray job that does not depend on this machine."""

import contextlib
import io
import logging
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from diffseg.errors import UserError
from search_spaces.function import REFERENCE
from studies.definition.studyfile import read_tables
from studies.engine import clusterfile
from studies.engine.cluster_check import check, read

PACKAGES = ("diffseg", "search_spaces", "studies", "analysis")  # that a job carries to all nodes
JOBS = "http://127.0.0.1:8265"  # where a head takes jobs
CREDENTIALS = {"aws": "`aws configure`", "gcp": "`gcloud auth application-default login`"}  # what sets them


def submit(path: Path, arguments: tuple[str, ...], on_line: Callable[[str], object]) -> str:
    """Make a cluster's head run `diffseg run` as a Ray job; return the job's name.

    The code goes with the job to all nodes, and so does the study's file if there is one.

    Args:
        path: The cluster's file.
        arguments: Of `diffseg run`.
        on_line: Called with what the head prints.

    Raises:
        UserError: The cluster's file has problems, or its head cannot be reached.
    """
    config, job = _launcher_config(path), f"diffseg-{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / job
        _copy_code(folder)
        line = shlex.join(["python", "-m", "studies", "run", *_copy_study(folder, arguments), "--address", "auto"])
        remote = f"ray job submit --address {JOBS} --no-wait --submission-id {job} --working-dir /tmp/{job} -- {line}"
        on_line(_send(config, path, folder, job, remote))
    return job


def _launcher_config(path: Path) -> dict[str, Any]:
    """Read a file for `ray up`. Raises UserError for other kinds and for files with problems."""
    if problems := check(path):
        raise UserError("; ".join(problems))
    text = read(path)
    if text.startswith("#!"):
        raise UserError(f"{path} is a SLURM script: `sbatch {path}` submits it")
    config: dict[str, Any] = clusterfile.parse_documents(path, text)[0]
    if "provider" not in config:
        raise UserError(f"{path} is a {config.get('kind')} of Kubernetes: `kubectl apply -f {path}` submits it")
    return config


def _copy_code(folder: Path) -> None:
    root = Path(__file__).parent.parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def _copy_study(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    """LocalCopy the study's file, if one is given, into the folder; return the arguments as they hold there."""
    words = list(arguments)
    for place, word in enumerate(words):
        if word.endswith(".toml") and Path(word).is_file():
            shutil.copy(word, folder / Path(word).name)
            _copy_space(Path(word), folder)
            words[place] = Path(word).name
    return words


def _copy_space(study: Path, folder: Path) -> None:
    """Copy the Python file of a study's search space, if it has one beside it, to the same place beside the copy."""
    space = (read_tables(study).get("search") or {}).get("space")
    found = REFERENCE.fullmatch(space) if isinstance(space, str) else None
    if found and (source := study.parent / found["file"]).is_file() and not Path(found["file"]).is_absolute():
        target = folder / found["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _send(config: dict[str, Any], path: Path, folder: Path, job: str, command: str) -> str:
    """LocalCopy a folder to the head's /tmp/job and run a command there; return what it prints."""
    from ray.autoscaler import sdk

    output = io.StringIO()
    try:
        with _quiet(output):
            sdk.rsync(config, source=f"{folder}/", target=f"/tmp/{job}/", down=False)
            printed = sdk.run_on_cluster(config, cmd=command, with_output=True)
    except (SystemExit, Exception) as error:
        raise UserError(_explain(error, output.getvalue(), path, config)) from None
    return printed if isinstance(printed, str) else printed.decode(errors="replace")


@contextlib.contextmanager
def _quiet(output: io.StringIO) -> Iterator[None]:
    """Keep the terminal clean: what Ray's launcher prints goes into `output`; what it and the cloud's packages log is lost."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _explain(error: BaseException, output: str, path: Path, config: dict[str, Any]) -> str:
    """Say in one sentence why Ray's launcher gave up. output: what it printed."""
    name, chain = config.get("cluster_name", "the cluster"), _chain(error)
    if any("credential" in f"{type(one).__name__} {one}".lower() for one in chain):
        cloud = config["provider"].get("type")
        how = CREDENTIALS.get(cloud, "the cloud's program")
        return (
            f"this machine has no valid credentials of {cloud}, so the head of {name} cannot be found: {how} sets them"
        )
    if missing := next((one for one in chain if isinstance(one, ImportError)), None):
        return f"a package that Ray's launcher needs is missing here ({_one_line(str(missing))}): install it"
    printed = [_one_line(line) for line in output.splitlines() if line.strip()]
    text = _one_line(str(error)) if not isinstance(error, SystemExit) and str(error) else (printed or [""])[-1]
    reason = f"{type(error).__name__}: {text}" if text else f"Ray's launcher gives no reason but {type(error).__name__}"
    return f"the head of {name} cannot be reached or refuses the job ({reason}): `ray up {path}` starts it"


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and those that led to it, at most ten."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and len(chain) < 10:
        chain.append(one)
        one = one.__cause__ or one.__context__
    return chain


def _one_line(text: str) -> str:
    """Put a terminal's text on one line, without colours, of at most 300 characters."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:300]
