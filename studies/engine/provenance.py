"""The versions of the code and of its packages, which every trial records."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("diffseg", "torch", "numpy", "monai", "ray", "optuna", "pyarrow")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those PACKAGES that are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def code_version() -> tuple[str | None, bool]:
    """Return the commit of the code and whether it was changed since; (None, False) outside of a git repository."""
    try:
        _git("ls-files", "--error-unmatch", __file__)
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, False


def _git(*arguments: str) -> str:
    """Return what a git command prints in the folder of this file. Raises CalledProcessError if it fails."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    )
    return done.stdout.strip()
