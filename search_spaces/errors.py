"""The error of a search space, which names a key of the study file."""

from diffseg.errors import ConfigError


class SpaceError(ConfigError):
    """A part of a search's tables is not allowed. The message begins with its key, by which a reader finds the line."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key
