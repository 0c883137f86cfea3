"""The base of all sections of settings, and the kinds of numbers that they hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]


Positive = Annotated[float, Field(gt=0)]


Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


Fraction = Annotated[float, Field(ge=0, le=1)]


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
