"""Writing files outside of the store: what cannot be written is refused in one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from diffseg.errors import StoreError, UserError


@contextlib.contextmanager
def refuse_unwritable(path: Path) -> Iterator[None]:
    """Raise UserError in place of OSError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}): make room there, or copy the study to a store that can be"
        ) from None
