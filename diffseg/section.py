"""The base class of all sections of a configuration, and the number types that they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Curve = tuple[tuple[float, Annotated[float, Field(ge=0)]], ...]  # knots [log-SNR, weight], joined by straight lines


class Section(BaseModel):
    """A frozen, hashable group of settings. Unknown keys, values of another type, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Needs = dict[str, tuple[str | bool, ...]]  # a setting is used if one of these choices has one of its values
Users = dict[str, Needs]  # setting → choices of the same section, and the values of them that use the setting


def unused(section: Section, users: Users) -> set[str]:
    """Return the settings that none of the section's choices use."""
    return {
        name
        for name, choices in users.items()
        if not any(getattr(section, choice) in values for choice, values in choices.items())
    }


def check_curve(name: str, curve: Curve) -> None:
    """Raise ValueError unless the knots rise in log-SNR and one has a weight. A curve without knots is allowed."""
    levels, weights = [level for level, _ in curve], [weight for _, weight in curve]
    if levels != sorted(set(levels)) or (weights and not any(weights)):
        raise ValueError(f"the knots of {name} must rise in log-SNR, and one weight at least must be above 0")
