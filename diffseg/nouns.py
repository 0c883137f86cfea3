"""Nouns in the number that a sentence needs."""


def noun(number: float, one: str, several: str = "") -> str:
    """Return the noun for a number of things: `one` for 1, else `several`, by default with an s."""
    return one if number == 1 else several or f"{one}s"


def patients(number: int) -> str:
    """Return the noun for a number of groups."""
    return noun(number, "patient or volume", "patients or volumes")
