"""Settings that a data set's own files give: nnU-Net's `dataset.json` names the channels, classes and ignored pixels.

They are filled in when a study or a command learns the root, so that a trial's configuration says all that it depends on.
"""

from pathlib import Path
from typing import Any

from diffseg.data.layout_detection import SIGNS, detect_layout
from diffseg.errors import UserError

LABELS = ("data.classes", "data.foreground")  # either says what masks hold
WITHOUT = ("folder", "synthetic")  # layouts whose files give no settings
OF_MASKS = ("data.classes", "data.regions", "data.ignore")


def guess_layout(root: str) -> str:
    """Return the layout of a data set that no study file describes: what lies at the root, or else folder.

    A layout that takes further settings is not guessed: reading the root as a folder is refused with the command for it.
    """
    if "://" in root:
        return "folder"
    if not Path(root, "dataset.json").is_file():
        found = detect_layout(Path(root))
        return found if found and not SIGNS[found][1] else "folder"
    from diffseg.data import nnunet

    return "nnunet" if nnunet.is_root(Path(root)) else "folder"


def fill_in(leaves: dict[str, Any], root: str | None) -> dict[str, Any]:
    """Return the settings of a data set with those that its files give. Given settings are kept.

    Args:
        leaves: Settings by their dotted paths.
        root: The folder or URI of the data set; None if it has none.

    Raises:
        UserError: Classes are needed, but the root cannot be read here, or its file contradicts itself.
    """
    if root is None or leaves.get("data.layout", "synthetic") in WITHOUT:
        return leaves
    from diffseg.data import LAYOUTS  # imports torch, which takes long

    layout = LAYOUTS.get(leaves["data.layout"])
    if layout is None or layout.read_settings is None:
        return leaves
    named = any(leaves.get(key) for key in LABELS)
    if "://" in root or not Path(root).is_dir():
        if named:
            return leaves
        raise UserError(
            f"data set {leaves.get('data.name')} is at {root}, whose dataset.json cannot be read from here: give its classes, "
            """such as 'data.classes={"anterior": 1, "posterior": 2}', and data.channels"""
        )
    found = layout.read_settings(Path(root))
    given = {key: value for key, value in leaves.items() if value or key not in LABELS}
    return {key: value for key, value in found.items() if not named or key not in OF_MASKS} | given
