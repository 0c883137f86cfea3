"""The network of a configuration: settings of any class in the registry, chosen by `network.name`."""

import json
from functools import lru_cache
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter

from diffseg.networks.protocol import NetworkSettings
from diffseg.networks.registry import NETWORKS


def _load(value: Any) -> Any:
    """Return the settings that a table describes; settings stay as they are."""
    if isinstance(value, NetworkSettings):
        return value
    return _loader(tuple(NETWORKS.values())).validate_json(json.dumps(value))  # as JSON, so that lists become tuples


@lru_cache
def _loader(classes: tuple[type[NetworkSettings], ...]) -> TypeAdapter[Any]:
    """Return a reader of the settings of any of the classes, chosen by `name`."""
    union: Any = Annotated[Union[classes], Field(discriminator="name")]  # noqa: UP007  built at run time
    return TypeAdapter(union)


Network = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_load)]
