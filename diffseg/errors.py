"""Errors that are shown as one sentence, without a traceback: what was found, where, what is allowed, what to do next."""


class UserError(Exception):
    """Bad input. Shown without a traceback; never raised for a fault of our own."""


class MachineryError(Exception):
    """Ray, a node or the store failed, which is neither the user's fault nor a trial's. Shown like a UserError, exit status 3."""


class DataError(UserError):
    """A data set, or one of its files, cannot be used."""


class ConfigError(UserError):
    """A configuration key or value is not allowed."""


class StoreError(UserError, OSError):
    """A store cannot be read or written now: full, out of reach, or without permission. Callers that wait catch OSError."""


class DefinitionError(UserError):
    """The definition of a study, its study.json, cannot be used."""


class Diverged(UserError):
    """The loss stopped being a finite number."""


class Pruned(Exception):
    """The run was told to end early, since others promise more."""


class Stopped(Exception):
    """The run was asked to stop and has left a checkpoint; the same command goes on from it."""


class WorkerLost(Exception):
    """Another process that trains the same network is gone."""
