"""Raw data sets of nnU-Net and of the Medical Segmentation Decathlon, as files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from volume_files import AFFINE, save

SHAPE = (20, 24, 3)
LABELS = {"background": 0, "anterior": 1, "posterior": 2}


def numbers(seed: int, *channels: int) -> np.ndarray:
    """Return intensities of a volume with these channels, or without that axis."""
    return np.random.default_rng(seed).integers(0, 255, (*SHAPE, *channels), dtype=np.uint8)


def truth(*values: int) -> np.ndarray:
    """Return a label map with a box of each value."""
    found = np.zeros(SHAPE, np.uint8)
    for k, value in enumerate(values):
        found[2 + 5 * k : 6 + 5 * k, 3:15, :2] = value
    return found


def describe(root: Path, **changed: Any) -> dict[str, Any]:
    """Write dataset.json of nnU-Net v2, with some entries changed; None leaves one out."""
    found = {"channel_names": {"0": "T1"}, "labels": LABELS, "numTraining": 4, "file_ending": ".nii.gz"} | changed
    found = {key: value for key, value in found.items() if value is not None}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def write_volumes(root: Path, cases: str = "abcd", channels: int = 1, part: str = "Tr", values=(1, 2)) -> Path:
    """Write volumes with a file for each channel, and their labels."""
    for k, case in enumerate(cases):
        for channel in range(channels):
            save(root / f"images{part}" / f"{case}_{channel:04d}.nii.gz", numbers(10 * k + channel), AFFINE)
        save(root / f"labels{part}" / f"{case}.nii.gz", truth(*values), AFFINE)
    return root


def write_pictures(root: Path, cases: str = "abcd", channels: int = 1, colour: bool = False, values=(1, 2)) -> Path:
    """Write pictures with a file for each channel, and their labels."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for k, case in enumerate(cases):
        for channel in range(channels):
            pixels = numbers(10 * k + channel, *[3] * colour)[:, :, 0]
            Image.fromarray(pixels).save(root / "imagesTr" / f"{case}_{channel:04d}.png")
        Image.fromarray(truth(*values)[:, :, 0]).save(root / "labelsTr" / f"{case}.png")
    return root


def write_decathlon(root: Path, cases: str = "abcd", channels: int = 1, **changed: Any) -> Path:
    """Write volumes with all channels in one file, and dataset.json of the Decathlon."""
    for k, case in enumerate(cases):
        save(root / "imagesTr" / f"{case}.nii.gz", numbers(k, *[channels] * (channels > 1)), AFFINE)
        save(root / "labelsTr" / f"{case}.nii.gz", truth(1, 2), AFFINE)
    pairs = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases]
    labels = {str(value): name for name, value in LABELS.items()}
    modality = {str(channel): f"MRI{channel}" for channel in range(channels)}
    old = {"channel_names": None, "file_ending": None, "modality": modality, "labels": labels, "training": pairs}
    describe(root, **{**old, "numTraining": len(cases), "numTest": 0, "test": [], **changed})
    return root
