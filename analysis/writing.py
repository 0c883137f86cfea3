"""Writing files outside of the store: what cannot be written is refused in one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from diffseg.errors import StoreError, UserError


def temporary_beside(path: Path) -> Path:
    """Return a path beside another one that no file has, from which it is replaced in one step."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")


@contextlib.contextmanager
def refuse_unwritable(path: Path) -> Iterator[None]:
    """Raise UserError in place of OSError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): make room there, or give another place") from None
