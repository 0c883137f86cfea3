"""MoNuSeg 2018 (Kumar et al., 2020): H&E-stained tissue in TIFF files; every nucleus is a polygon in an Aperio XML file."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import ElementTree
from PIL import Image, ImageDraw

from diffseg.config import Data
from diffseg.data.files import list_files
from diffseg.data.listing import Listing, missing_folder, pair_by_name
from diffseg.data.opening import Shape, cached, open_file, unreadable
from diffseg.data.records import Record
from diffseg.errors import DataError

FOLDERS = {  # by split: of images and of annotations
    "train": ("MoNuSeg 2018 Training Data/Tissue Images", "MoNuSeg 2018 Training Data/Annotations"),
    "test": ("MoNuSegTestData", "MoNuSegTestData"),
}


@dataclass(frozen=True)
class Outlined(Record):
    """An image whose nuclei are outlined in an XML file."""

    stores_labels = False

    @property
    def knows_objects(self) -> bool:
        """Whether the annotations tell which object a pixel belongs to: polygons do."""
        return bool(self.annotations)

    def check_headers(self) -> Shape:
        """Read the image's shape; polygons have no size. Raises DataError."""
        return self.read_shape()

    def read_mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """Draw all nuclei of an XML file: uint8 [H, W]. Raises DataError."""
        return (draw_instances(path, size) > 0).view(np.uint8)

    def _read_annotations(self) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Draw the masks bool [R, H, W] and the nuclei uint16 [1, H, W]; count the annotations that are not empty."""
        masks, _, marked = super()._read_annotations()
        drawn = draw_instances(self.annotations[0], self.read_shape().size) if self.annotations else None
        return masks, None if drawn is None else drawn[None].astype(np.uint16), marked

    def count_objects(self, masks: np.ndarray) -> int:
        """Count the polygons: nuclei may touch in the mask."""
        return len(read_polygons(self.annotations[0]))


def find(root: Path, config: Data) -> Listing:
    """Pair TIFF and XML files of equal names, in the folders of the challenge's two archives."""
    parts = []
    for split, folders in FOLDERS.items():
        for folder in folders:
            if not (root / folder).is_dir():
                raise missing_folder(root, folder, "MoNuSeg is expected as unpacked from the challenge's two archives")
        images, annotations = (root / folder for folder in folders)
        parts.append(pair_by_name(split, list_files(images), list_files(annotations, (".xml",)), Outlined))
    return Listing.join(parts)


@cached  # polygons are counted and drawn one after the other
def read_polygons(path: Path) -> list[np.ndarray]:
    """Read the nuclei of an XML file as arrays [n, 2] of x and y in pixels. Fewer than three vertices are left out.

    Raises DataError if the file is not XML or holds no region.
    """
    try:
        with open_file(path) as file:
            regions = ElementTree.parse(file).getroot().iter("Region")
        found = [[(float(v.get("X")), float(v.get("Y"))) for v in region.iter("Vertex")] for region in regions]
        if not all(isfinite(number) for vertices in found for vertex in vertices for number in vertex):
            raise ValueError("a coordinate is not finite")
    except OSError as error:
        raise unreadable(path, error) from None
    except (ParseError, LookupError, TypeError, ValueError) as error:  # LookupError: of an unknown encoding
        raise DataError(f"{path} is not an annotation ({error}): it is truncated or damaged, copy it anew") from None
    if not found:
        raise DataError(f"{path} has no region: an annotation holds a Region with its Vertices for every nucleus")
    return [np.array(vertices) for vertices in found if len(vertices) >= 3]


@cached  # for the mask, then for the nuclei
def draw_instances(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Draw the nuclei as int32 [H, W]: 0 is background, k the k-th polygon. Where polygons overlap, the later one wins."""
    canvas = Image.new("I", size[::-1])
    draw = ImageDraw.Draw(canvas)
    for k, vertices in enumerate(read_polygons(path), 1):
        draw.polygon([tuple(vertex) for vertex in vertices], fill=k)
    return np.asarray(canvas, dtype=np.int32)
