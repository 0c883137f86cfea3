"""Writing files outside of the store: what cannot be written is refused in one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from diffseg.errors import StoreError, UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside another one, to be written: it then replaces the other in one step, or is removed after an error."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def refuse_unwritable(path: Path) -> Iterator[None]:
    """Raise UserError in place of OSError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): make room there, or give another place") from None
