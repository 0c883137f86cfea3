"""Places: where a node keeps decoded data sets and its copies of what lies behind URIs."""

import socket
from pathlib import Path

from diffseg.errors import UserError
from studies.store.copies import LocalCopy, node_folder
from studies.store.folder import Folder


def cache_folder(store: str) -> Path:
    """Return the folder of decoded data sets: in the store if it is a local folder, else on the node."""
    local = Folder.open(store).local
    return local / "cache" if local else node_folder() / "cache"


def fetch_root(root: str) -> Path:
    """Return a data set's folder, or this node's copy of a URI. Raises UserError if a URI holds no files or cannot be read."""
    if "://" not in root:
        return Path(root)
    from filelock import FileLock  # takes long to import, and most roots are folders

    try:
        copy = LocalCopy(Folder.open(root))
        copy.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy.path}.lock"):  # other trials on this node may want it, too
            path = copy.fetch()
    except (OSError, ValueError) as error:
        raise UserError(f"{root} cannot be read from {socket.gethostname()} ({error})") from None
    if not any(path.iterdir()):
        raise UserError(f"{root} holds no files, as seen from {socket.gethostname()}: give --data NAME=ROOT")
    return path
