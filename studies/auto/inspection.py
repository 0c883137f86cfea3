"""What a data set is like, as far as a plan needs it: its files, the size of its objects, and whether orientation matters."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffseg.config import Config, Data
from diffseg.errors import DataError, UserError

SMALL = 32  # px, at which orientation is looked at


@dataclass(frozen=True)
class Inspection:
    """What was found of a data set."""

    data: Data  # the settings by which its files are read
    remarks: tuple[str, ...]  # sentences on how files were understood, and on what looks wrong
    channels: int  # of its images
    raters: int
    volumes: bool  # whether its images are slices of volumes
    side: float  # √(height · width) of the smallest image, px
    area: float  # height · width of the largest image, px
    diameter: float | None  # 10th percentile of the diameters of objects, px; None if there are none
    share: float | None  # the same, of the diameters as shares of the side of their image
    train_images: int
    test_images: int
    flips: str  # that training may use
    orientation: str  # the reason for it, in words


def inspect(
    name: str,
    root: str,
    settings: dict[str, Any],
    cache: Path | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Read all of a data set at full size, and look at it as `data check` does.

    Args:
        name: The data set's.
        root: Its folder.
        settings: Settings by their dotted paths, such as data.classes, which decide how files are read.
        cache: The folder of decoded data sets.
        on_progress: Called with the number of images that are decoded, and of all.

    Raises:
        UserError: The data set cannot be used, or is behind a URI.
    """
    from diffseg.data.check import check
    from studies.definition.folder_settings import fill_in
    from studies.definition.shipped import data_settings

    if "://" in root:
        raise UserError(f"data set {name} is at {root}, but auto looks at every image: copy it to this machine")
    given = {path: value for path, value in settings.items() if path.startswith("data.")}
    config = Config().with_leaves(fill_in(data_settings(name, root) | {"data.name": name} | given, root)).data
    found = check(config, Path(root), on_progress)
    if found.problems:
        more = f" ({len(found.problems) - 1} more)" if found.problems[1:] else ""
        raise UserError(f"{found.problems[0]}{more}: `diffseg data check {name} {root}` lists all")
    train, test = found.splits["train"], found.splits["test"]
    assert train.smallest is not None  # without images there are problems
    assert train.largest is not None
    flips, orientation, volumes = look_at_orientation(config, root, cache)
    return Inspection(
        data=config,
        remarks=found.suspicions,
        channels=max(train.channels),
        raters=train.raters or 1,
        volumes=volumes,
        side=(train.smallest[0] * train.smallest[1]) ** 0.5,
        area=float(train.largest[0] * train.largest[1]),
        diameter=train.diameter and train.diameter[0],
        share=train.share and train.share[0],
        train_images=train.images,
        test_images=test.images,
        flips=flips,
        orientation=orientation,
    )


def look_at_orientation(config: Data, root: str, cache: Path | None) -> tuple[str, str, bool]:
    """Return the flips that training may use, the reason in words, and whether images are slices of volumes."""
    from diffseg import data
    from diffseg.data.orientation import find_orientation

    small = config.model_copy(update={"size": SMALL, "fit": "resize", "test_crops": False})
    try:
        loaded = data.load(small, Path(root), cache)
    except DataError:  # objects vanish at this size
        return "none", f"masks have no object at {SMALL} px, at which orientation is looked at", False
    found, records = find_orientation(loaded.train), loaded.train.records
    return found.flips, str(found), bool(records and records[0].volume)
