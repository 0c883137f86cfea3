"""The base class of all sections of a configuration, and the number types that they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A frozen, hashable group of settings. Unknown keys, values of another type, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Users = dict[
    str, dict[str, tuple[str, ...]]
]  # setting → choice of the same section → values of it that use the setting


def unused(section: Section, users: Users) -> set[str]:
    """Return the settings that none of the section's choices use."""
    return {
        name
        for name, choices in users.items()
        if not any(getattr(section, choice) in values for choice, values in choices.items())
    }
