"""What the masks of an image are: those of raters, or objects, in a file each or with a number each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diffseg.config import Data
from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.mask_statistics import MaskStatistics
from diffseg.data.masks import ForegroundRule
from diffseg.data.records import Record

Form = Literal["raters", "files", "numbers"]  # of raters; of an object each; or one with a number for each object
OVERLAP = 0.1  # share of the marked pixels that several masks mark, above which they are hardly objects


@dataclass(frozen=True)
class ImageMasks:
    """The masks of one image."""

    masks: tuple[MaskHistogram, ...]
    overlap: float  # share of the marked pixels that several of them mark
    marked: int  # masks that are not empty; 0 of images with a single mask
    faults: Mapping[Path, str] = field(default_factory=dict)  # sentences on masks with values that no class lists


@dataclass(frozen=True)
class MaskForm:
    """What the masks of all images are."""

    name: Form | None = None  # None: what the layout says
    rule: ForegroundRule = ()  # of the foreground, if it follows
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def decide_form(
    records: Sequence[Record], images: Sequence[ImageMasks], masks: MaskStatistics, config: Data
) -> MaskForm:
    """Decide what the masks are, by data.objects, by their folders and by all masks.

    Args:
        records: As the layout lists them: united if data.objects is true, or if each image has a folder of masks.
        images: Their masks.
        masks: The values of all of these.
        config: The data set's settings.
    """
    if config.objects and all(len(record.annotations) == 1 for record in records):
        return _decide_single(masks, config)
    several = [image for image in images if image.marked > 1]
    if config.objects is not None or config.layout != "folder" or not several:  # in other layouts they are raters
        return MaskForm()
    first, second = (mask.path for mask in several[0].masks[:2])
    if all(record.united for record in records):
        return _decide_folders(several, len({len(record.annotations) for record in records}) == 1, first, second)
    if any(image.overlap for image in several):
        return MaskForm()
    question = (
        f"{first} and {second.name} mark different places, and so do the masks of all {len(several)} images with several: "
        "if they are objects, data.objects=true unites them; if they are raters, set data.objects=false"
    )
    return MaskForm(problems=(question,))


def _decide_single(masks: MaskStatistics, config: Data) -> MaskForm:
    """Decide what single masks are that data.objects says are objects: maps of numbers, unless classes or rules say else.

    The objects of a binary mask are not known.
    """
    if config.classes or config.foreground not in ((), "nonzero"):
        return MaskForm("raters")
    levels = not masks.blurred_hue if masks.coloured else masks.encoding == "levels"
    given = config.foreground == "nonzero" and (masks.coloured or masks.encoding != "binary")
    return MaskForm("numbers", "nonzero") if levels or given else MaskForm("raters")


def _decide_folders(images: Sequence[ImageMasks], equal: bool, first: Path, second: Path) -> MaskForm:
    """Decide what the masks are of images that have a folder of masks each: objects, unless they overlap as raters do.

    equal: whether all images have the same number of masks.
    """
    overlap = max(image.overlap for image in images)
    if equal and overlap > OVERLAP:
        remark = (
            f"masks such as {first} lie in a folder for each image and overlap by up to {overlap:.0%}, so that they are taken "
            "for those of raters: data.objects=true unites them as objects"
        )
        return MaskForm("raters", remarks=(remark,))
    if overlap > OVERLAP:
        question = (
            f"{first} and {second.name} lie in a folder of their image, as those of objects do, but {overlap:.0%} of the "
            "pixels of an image are marked by several: if they are objects, set data.objects=true; if they are raters, give "
            "every image the same number of them and set data.objects=false"
        )
        return MaskForm(problems=(question,))
    remark = (
        f"masks such as {first} lie in a folder for each image and are taken for objects of one mask: data.objects=false "
        "makes them those of raters"
    )
    return MaskForm(remarks=(remark,))
