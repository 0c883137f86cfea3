"""Errors that are shown as one sentence, without a traceback: what was found, where, what is allowed, what to do next."""


class UserError(Exception):
    """Bad input. Never raised for a fault of the program itself."""


class MachineryError(Exception):
    """Ray, a node or the store failed, by no fault of the user or of a trial. Shown like a UserError, exit status 3."""


class DataError(UserError):
    """A data set, or one of its files, cannot be used."""


class ConfigError(UserError):
    """A configuration key or value is not allowed."""


class StoreError(UserError, OSError):
    """A store cannot be read or written now: it is full, cannot be reached, or denies permission.

    It is an OSError, which callers that wait for the store catch.
    """


class DefinitionError(UserError):
    """The definition of a study, its study.json, cannot be used."""


class Diverged(UserError):
    """The loss or the norm of its gradient is not a finite number."""


class Pruned(Exception):
    """The training ended early, since other trials are better."""


class Stopped(Exception):
    """The run was asked to stop and has left a checkpoint. The same command resumes from it."""


class WorkerLost(Exception):
    """Another process that trains the same network is gone."""
