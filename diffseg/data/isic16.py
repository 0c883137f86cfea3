"""ISIC 2016, the Part 1 layout of the challenge (Gutman et al., 2016): dermoscopic images, one lesion each."""

from pathlib import Path

from diffseg.data.records import Found, files_in, joined, pairs
from diffseg.errors import DataError

SPLITS = {"train": "ISBI2016_ISIC_Part1_Training", "test": "ISBI2016_ISIC_Part1_Test"}
SUFFIX = "_Segmentation"


def find(root: Path) -> Found:
    """Pairs of ISIC_*.jpg and ISIC_*_Segmentation.png."""
    parts = []
    for split, prefix in SPLITS.items():
        folders = [root / f"{prefix}_{kind}" for kind in ("Data", "GroundTruth")]
        for folder in folders:
            if not folder.is_dir():
                raise DataError(
                    f"{root} has no folder {folder.name}: ISIC16 is expected as unpacked from the challenge's Part 1"
                )
        masks = {stem.removesuffix(SUFFIX): paths for stem, paths in files_in(folders[1]).items()}
        parts.append(pairs(split, files_in(folders[0]), masks))
    return joined(parts)
