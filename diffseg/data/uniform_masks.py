"""Masks that are all empty or all full: nothing can be learnt or measured from them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class UniformMasks:
    """A split whose masks are all empty, or all full."""

    split: str  # train or test; "" where the splits are still to be drawn
    count: int  # masks of all raters
    full: bool
    named: bool = False  # whether classes are named

    def describe(self, root: Path, size: int | None = None) -> str:
        """Return the problem as one sentence. size: px that the masks were brought to; None for masks as in their files."""
        kind = {"": "", "train": "training "}.get(self.split, f"{self.split} ")
        start = f"all {self.count} {kind}masks of {root} are {'full' if self.full else 'empty'}"
        if size is not None:
            return f"{start} at data.size={size}: give a larger data.size, or correct the masks"
        if self.named:
            return (
                f"{start}: masks must hold two of the classes, or one and background, so correct them, or data.classes"
            )
        if self.full:
            return f"{start}: masks must leave background, so correct them, or set data.foreground to the foreground's values alone"
        return f"{start}: some masks must mark foreground, so correct them, or set data.foreground to values that occur in them"
