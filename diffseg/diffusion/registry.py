"""Registries of functions that a setting chooses by name."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F")


def register(registry: dict[str, F], *names: str) -> Callable[[F], F]:
    """Return a decorator that enters a function into a registry under each of the names.

    The setting's Literal in `diffseg.config` lists the same names.
    """

    def enter(function: F) -> F:
        registry.update(dict.fromkeys(names, function))
        return function

    return enter
