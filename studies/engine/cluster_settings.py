"""Checks of settings that every kind of cluster's file has: placeholders, versions, the store and authentication.

They look for patterns in the text, since the settings stand in shell commands and in fields of three kinds of files.
"""

import platform
import re
from pathlib import Path

PLACEHOLDER = re.compile(r"CHANGE[-_ ]?ME|YOUR[-_][A-Z]+|<[A-Za-z][A-Za-z _-]*>|/path/to/|\bTODO\b", re.IGNORECASE)
RAY_PIN = re.compile(
    r"\bray(?:\[[\w,]+\])?\s*(?:==|>=|~=|<=|<|>)\s*([\d.]+\w*)|rayproject/ray(?:-ml)?:([\w.-]+)|/ray-([\d.]+\w*)-cp"
)
PYTHON_PIN = re.compile(r"--python[ =](3\.\d+)|python(3\.\d+)\b|-py(3\d+)\b|-cp(3\d+)-")
NIGHTLY = re.compile(r"ray-wheels/latest|\.dev0-|rayproject/ray(?:-ml)?:(?:nightly|latest)")
STORE = re.compile(r"DIFFSEG_STORE(?:=|[\"']?,?\s*value:\s*)[\"']?([^\s\"';,}]+)|--store[ =][\"']?([^\s\"';]+)")
MOUNT = re.compile(r"\bmount\b.*?\s(/[\w./-]+)\s*$|mountPath:\s*(/[\w./-]+)", re.MULTILINE)


def placeholder_problems(text: str) -> list[str]:
    """Find placeholders that were not filled in."""
    found = []
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        if match := PLACEHOLDER.search(line):
            found.append(f"line {number} still has the placeholder '{match[0]}': {line.strip()[:100]}")
    return found


def version_problems(text: str) -> list[str]:
    """Compare the versions of Ray and Python with those of this machine."""
    import ray

    code = without_comments(text)
    if match := NIGHTLY.search(code):
        return [f"it installs a Ray that changes from day to day ('{match[0]}'): pin ray=={ray.__version__}"]
    found, own_python = [], platform.python_version().rpartition(".")[0]
    pins = find_pins(code)
    if others := [pin for pin in pins if pin != ray.__version__]:
        found.append(
            f"it has Ray {', '.join(others)}, but this machine has {ray.__version__}: all nodes and it need the same"
        )
    elif not pins and "pip install" in code:
        found.append(f"it does not say which Ray is installed: pin ray[default,tune,train]=={ray.__version__}")
    pythons = {_with_dot(version) for version in _matches(PYTHON_PIN, code)}
    if others := sorted(pythons - {own_python}):
        found.append(
            f"it has Python {', '.join(others)}, but this machine has {own_python}: all nodes and it need the same"
        )
    return found


def without_comments(text: str) -> str:
    """Replace the lines that are comments with empty ones."""
    return "\n".join("" if line.lstrip().startswith("#") else line for line in text.splitlines())


def find_pins(code: str) -> list[str]:
    """Find the versions of Ray that a text without comments names, without the suffixes of Docker tags."""
    pins = [re.sub(r"-(py\d+|gpu|cpu|cu\d+|aarch64)", "", pin) for pin in _matches(RAY_PIN, code)]
    return list(dict.fromkeys(pins))


def _matches(pattern: re.Pattern[str], text: str) -> list[str]:
    """Find all matches of a pattern; of each, return the one group that matched."""
    return [next(filter(None, match.groups())) for match in pattern.finditer(text)]


def _with_dot(python: str) -> str:
    """Write the version 311 of a tag as 3.11."""
    return python if "." in python else f"{python[0]}.{python[1:]}"


def store_problems(text: str, local: bool) -> list[str]:
    """Check that all nodes see one store.

    Args:
        local: Whether the machines may have file systems mounted already, as those of SLURM or of one's own do.
    """
    code = without_comments(text)
    stores, mounted = set(_matches(STORE, code)), _matches(MOUNT, code)
    if not stores:
        return [
            "it names no store: set DIFFSEG_STORE to a URI such as s3://BUCKET/studies, or to a folder that all nodes mount"
        ]
    found = []
    for store in sorted(stores):
        if "://" in store or any(Path(store).is_relative_to(point) for point in mounted):
            continue
        if not store.startswith(("/", "$", "~")):
            found.append(f"the store {store} is not an absolute path, so every node would have its own")
        elif not local or store.startswith(("/tmp", "/var/tmp", "/dev/shm", "/root")):
            found.append(f"the store {store} is a folder of each node's own: mount a shared one there, or give a URI")
    return found


def authentication_problems(text: str) -> list[str]:
    """Check that the cluster says how Ray authenticates its users."""
    if re.search(r"RAY_AUTH_MODE[=:\s\"']+(token|disabled)|name:\s*RAY_AUTH_MODE", text):
        return []
    return [
        "it does not set RAY_AUTH_MODE: with token, only who has the token may use the cluster, and all nodes agree on it"
    ]
