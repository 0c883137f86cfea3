"""Whether the orientation of images carries meaning: then mirrored or turned images would be images that do not occur.

Where it does, a simple rule tells an image from its mirrored or turned form: the one that is more like the mean of the others is
the image. The rule is tried on each patient or volume in turn, by the mean of all others; images of one share their orientation,
and so are taken together. What it compares are the image and its mask, made small. A test of significance would not do: of many
images it finds any lean of the camera, which does not make mirrored images unusual.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from diffseg.data.numbering import is_labelled
from diffseg.data.partition import interleave_groups, unit_name
from diffseg.data.splits import Split
from diffseg.nouns import noun

SIDE = 16  # px of the small images that are compared
IMAGES = 500  # at most
RECOGNISED = 0.75  # share of patients from which orientation counts as carrying meaning; by chance it is a half
FEWEST = 8  # patients, or else images, that the rule needs

SYMMETRIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # in the order in which they are allowed
    "mirrored left to right": lambda x: x.flip(-1),
    "mirrored top to bottom": lambda x: x.flip(-2),
    "turned by a quarter": lambda x: torch.rot90(x, 1, (-2, -1)),
}
FLIPS = ("none", "horizontal", "both", "symmetries")  # data.augment.flips, by the number of symmetries that hold


@dataclass(frozen=True)
class Orientation:
    """What may be mirrored or turned in training."""

    flips: str  # of data.augment.flips
    recognised: dict[str, float]  # the share of patients whose turned form the rule recognises, by symmetry
    units: int  # patients, or else images

    def __str__(self) -> str:
        """Return the reason in words."""
        if self.units < FEWEST:
            units = noun(self.units, "patient or image is", "patients or images are")
            return f"{self.units} {units} too few to tell whether orientation carries meaning"
        words = "; ".join(f"{name} {share:.0%}" for name, share in self.recognised.items())
        meaning = "no meaning" if self.flips == FLIPS[-1] else "meaning"
        return (
            f"orientation carries {meaning}: of {self.units} patients or images, a simple rule recognises those {words}"
        )


def find_orientation(split: Split) -> Orientation:
    """Find the symmetries that images of a split may be given, in the order of SYMMETRIES, up to the first that is recognised."""
    features = _describe_units(split)
    recognised: dict[str, float] = {}
    if len(features) < FEWEST:
        return Orientation(FLIPS[0], recognised, len(features))
    for place, (name, turn) in enumerate(SYMMETRIES.items()):
        recognised[name] = _recognise(features - turn(features))
        if recognised[name] >= RECOGNISED:
            return Orientation(FLIPS[place], recognised, len(features))
    return Orientation(FLIPS[-1], recognised, len(features))


def _recognise(differences: torch.Tensor) -> float:
    """Return the share of units for which an image is more like the mean image of the others than its turned form is.

    differences: of each unit to its turned form, [U, C, S, S].
    """
    own = differences.flatten(1)
    others = own.sum(0) - own
    return float(((own * others).sum(1) > 0).float().mean())


def _describe_units(split: Split) -> torch.Tensor:
    """Return for each patient, or else image, its mean small image and mask, each of mean 0 and deviation 1: [U, 2, S, S]."""
    units: dict[str, list[torch.Tensor]] = {}
    for index in interleave_groups(split)[:IMAGES].tolist():
        image, mask = split.images[index].float().mean(0), torch.from_numpy(is_labelled(split.masks[index].numpy()))
        both = torch.stack([image, mask.float().mean(0)])
        small = F.interpolate(both[None], (SIDE, SIDE), mode="area")[0]
        small = (small - small.mean((1, 2), keepdim=True)) / small.std((1, 2), keepdim=True).clamp(min=1e-6)
        units.setdefault(unit_name(split.groups[index], split.names[index]), []).append(small)
    return torch.stack([torch.stack(own).mean(0) for own in units.values()])
