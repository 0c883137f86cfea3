"""The deletion of a study."""

from diffseg.errors import StoreError
from studies.store import study_json
from studies.store.ledger import Ledger
from studies.store.lock import GUARD, Lock
from studies.store.lock import NAME as SESSION


def delete_study(ledger: Ledger) -> None:
    """Delete a study's folder. Its definition goes last: after a kill the study exists, and can be deleted again.

    Raises:
        UserError: A session runs the study, or the store cannot be written.
    """
    lock = Lock(ledger.folder)
    lock.acquire()
    try:
        for name in ledger.folder.files():
            if name not in (study_json.NAME, SESSION, GUARD):
                ledger.folder.remove(name)
        ledger.folder.remove(study_json.NAME)
        ledger.folder.clear()
    finally:
        lock.release()
    if left := ledger.folder.files():
        raise StoreError(f"{ledger.root} could not be removed whole: {len(left)} files are left, such as {min(left)}")
