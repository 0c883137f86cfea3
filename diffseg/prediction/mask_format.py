"""What the files of training masks hold besides the values of their classes: the background's value and the palette."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from diffseg.config import Data
from diffseg.data.masks import match_any
from diffseg.data.records import Record, in_parallel
from diffseg.data.splits import Split
from diffseg.labels.classes import Classes, Value

BLACK = "#000000"
SAMPLED = 32  # training images, at most, whose masks are read
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskFormat:
    """The format of training masks, in which masks are written. The ledger keeps it as `labels`."""

    background: Value = 0
    palette: tuple[Colour, ...] | None = None  # of pictures; None if they have none

    @classmethod
    def of(cls, train: Split, data: Data) -> "MaskFormat":
        """Return the format of the training masks, by a sample of them; the default one if no class is named.

        The background has the value that most of its pixels have, the palette is the longest one. Raises DataError.
        """
        classes = Classes.of(data)
        if not classes.values:
            return cls()
        candidates = (_implied_background(classes), *classes.background)
        records = [record for record in train.records or () if record.stores_labels and record.annotations]
        if len(candidates) == 1:
            records = [record for record in records if not record.volume]  # volumes have no palette
        sample = records[:: -(-len(records) // SAMPLED) or 1]
        found = in_parallel(lambda record: _inspect(record, candidates), sample)
        counts = [sum(own[k] for own, _ in found) for k in range(len(candidates))]
        palette = max((own for _, own in found), key=len, default=())
        return cls(candidates[counts.index(max(counts))], palette or None)

    @classmethod
    def from_json(cls, text: str) -> "MaskFormat":
        """Return the format that `to_json` wrote. Raises ValueError, KeyError or TypeError for other text."""
        saved = json.loads(text)
        palette = saved["palette"]
        return cls(saved["background"], palette and tuple((red, green, blue) for red, green, blue in palette))

    def to_json(self) -> str:
        """Return the format as text."""
        return json.dumps(asdict(self))


def _implied_background(classes: Classes) -> Value:
    """Return the value that is background without being listed: 0, or black if classes are named by colours alone."""
    return 0 if any(isinstance(value, int) for own in classes.values for value in own) else BLACK


def _inspect(record: Record, candidates: Sequence[Value]) -> tuple[list[int], tuple[Colour, ...]]:
    """Return how many pixels of an image's first mask have each of the values, and its palette. Raises DataError."""
    labels = record.read_labels(record.annotations[0])
    counts = [int(match_any(labels, (value,)).sum()) for value in candidates]
    colours = () if labels.palette is None else labels.palette.tolist()
    return counts, tuple((red, green, blue) for red, green, blue in colours)
