"""Data sets whose images show two classes by their colours, with masks as numbers, palette entries, colours or volumes."""

from pathlib import Path

import numpy as np
from nnunet_files import describe
from PIL import Image
from volume_files import save

LOOKS = np.array([(40, 40, 40), (220, 60, 40), (60, 80, 230)])  # of the background and the two classes in images
PALETTE = (0, 0, 0, 128, 0, 0, 0, 128, 0)
CODES = {  # data.classes, and the values of background and both classes in masks; a palette's name its mode
    "16 bits": ({"one": 300, "two": 1000}, (0, 300, 1000)),
    "palette": ({"one": 1, "two": 2}, (0, 1, 2)),
    "colours": ({"one": "#ff0000", "two": "#0000ff", "background": "#ffffff"}, ((255,) * 3, (255, 0, 0), (0, 0, 255))),
    "regions": ({"whole": [1, 2], "core": 2}, (0, 1, 2)),
}


def draw_mask(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw the numbers of a mask: a block of class 1 and one of class 2 beside it."""
    numbers = np.zeros(size, np.uint8)
    top, left = draw.integers(0, 6, 2)
    numbers[top : top + 12, left : left + 8] = 1
    numbers[top + 2 : top + 10, left + 8 : left + 15] = 2
    return numbers


def write_folder(root: Path, kind: str, size: tuple[int, int] = (20, 24)) -> Path:
    """Write 6 training and 3 test images of `size` with masks."""
    draw = np.random.default_rng(0)
    values = np.array(CODES[kind][1], np.uint16 if kind == "16 bits" else np.uint8)
    for split, count in (("train", 6), ("test", 3)):
        for k in range(count):
            numbers = draw_mask(draw, size)
            pixels = LOOKS[numbers] + draw.normal(0, 8, (*size, 3))
            for name, array in (("images", pixels.clip(0, 255).astype(np.uint8)), ("masks", values[numbers])):
                picture = Image.fromarray(array)
                if "palette" in kind and name == "masks":
                    picture.putpalette(PALETTE)
                path = root / split / name / f"{split}{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
    return root


def write_cases(
    root: Path, values: tuple[int, int, int], affine: np.ndarray, shape: tuple[int, int, int] = (20, 24, 3)
) -> Path:
    """Write a raw data set of nnU-Net with 3 training and 2 test cases: volumes of two channels, a file each."""
    draw = np.random.default_rng(0)
    describe(
        root,
        channel_names={"0": "T1", "1": "T2"},
        labels={"background": 0, "one": values[1], "two": values[2]},
        numTraining=3,
    )
    for part, cases in (("Tr", "abc"), ("Ts", "de")):
        for case in cases:
            numbers = np.stack([draw_mask(draw, shape[:2]) for _ in range(shape[2])], -1)
            for channel in (0, 1):
                pixels = LOOKS[numbers][..., channel] + draw.normal(0, 8, shape)
                save(root / f"images{part}" / f"{case}_{channel:04d}.nii.gz", pixels.astype(np.int16), affine)
            save(root / f"labels{part}" / f"{case}.nii.gz", np.array(values, np.int16)[numbers], affine)
    return root
