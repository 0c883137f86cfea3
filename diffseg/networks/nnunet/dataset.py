"""Training images and masks as the files that nnunetv2 reads, and its preparation of them."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diffseg.data.splits import Split
from diffseg.labels.classes import IGNORED, Classes
from diffseg.networks.nnunet.library import environment

IGNORE = "ignore"  # nnunetv2's name of the label of pixels that count in no loss
NAME, SPACING = "Dataset001_diffseg", (999, 1, 1)  # nnunetv2's name and spacing for 2-D images without a physical size


def prepare(split: Split, work: Path, classes: Classes) -> None:
    """Write raw data, nnunetv2's fingerprint, plans and preprocessed data into `work`: all of it, or nothing after a kill."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    temporary = work.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    processes = max(1, torch.get_num_threads())
    with environment(temporary, workers=processes):
        write_raw(split, temporary / "raw" / NAME, classes)
        extract_fingerprints([1], num_processes=processes, show_progress_bar=False)
        plan_experiments([1])
        preprocess([1], configurations=("2d",), num_processes=(processes,), show_progress_bar=False)
    temporary.rename(work)


def write_raw(split: Split, root: Path, classes: Classes) -> None:
    """Write images, masks (the majority of the raters) and dataset.json in nnunetv2's raw format."""
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
    cases, ending = {}, ".png" if split.case_statistics is None else ".tif"
    for index, (image, masks) in enumerate(zip(split.images, split.masks, strict=True)):
        case = f"case{index:06d}"
        names = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(len(image))]
        label = f"labelsTr/{case}{ending}"
        cases[case] = {"images": names, "label": label}
        for name, pixels in zip(names, pixels_of(split, index, image), strict=True):
            Image.fromarray(pixels).save(root / name)
        Image.fromarray(merge_raters(masks, classes).cpu().numpy()).save(root / label)
    description = {
        # nnunetv2 normalises each image by its own mean and deviation, unless a channel is called noNorm
        "channel_names": {
            str(channel): f"channel {channel}" if split.case_statistics is None else "noNorm"
            for channel in range(split.images.channels)
        },
        **describe_labels(classes),
        "numTraining": len(split.names),
        "file_ending": ending,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "dataset": cases,  # without it nnunetv2 lists the files in forked processes, which can hang beside threads
    }
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def describe_labels(classes: Classes) -> dict[str, Any]:
    """Return the entries of dataset.json for the classes; the label of ignored pixels is the highest.

    nnunetv2 writes the masks of regions one over the other. Each is written as its label that the fewest regions share.
    """
    labels: dict[str, int | list[int]] = {"background": 0}
    for name, numbers in zip(classes.names, classes.numbers, strict=True):
        key = f"class: {name}" if name == IGNORE else name  # which nnunetv2 keeps for ignored pixels
        labels[key] = numbers[0] if len(numbers) == 1 else list(numbers)
    if classes.ignored:
        labels[IGNORE] = _ignore_label(classes)
    if classes.exclusive:
        return {"labels": labels}
    shares = Counter(number for numbers in classes.numbers for number in numbers)
    return {
        "labels": labels,
        "regions_class_order": [min(numbers, key=lambda n: shares[n]) for numbers in classes.numbers],
    }


def count_heads(classes: Classes) -> int:
    """Return nnU-Net's output channels: one a region, or one a class and one for the background, as without shared labels."""
    regions = any(len(numbers) > 1 for numbers in classes.numbers)
    return classes.count if regions else classes.count + 1


def merge_raters(masks: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Return the label of each pixel, uint8 [H, W], given the stored numbers of the raters, uint8 [R, H, W].

    Of exclusive classes it is the one that more than half of the raters gave, else the background; in general the label
    whose classes agree best with the raters' shares for each class. Raters that ignore a pixel have no vote on it.
    """
    counted = masks != IGNORED
    if len(masks) == 1:
        return torch.where(counted, masks, _ignore_label(classes))[0]
    votes = torch.stack([torch.isin(masks, torch.tensor(own, device=masks.device)) for own in classes.numbers])
    shares = votes.float().sum(1) / counted.float().sum(0).clamp(min=1)  # [K, H, W]
    members = torch.tensor([[n in own for own in classes.numbers] for n in range(_ignore_label(classes))]).to(shares)
    gains = torch.einsum("nk,khw->nhw", members, 2 * shares - 1)  # over the background's agreement
    return torch.where(counted.any(0), gains.argmax(0), _ignore_label(classes)).byte()


def _ignore_label(classes: Classes) -> int:
    """Return nnunetv2's label of ignored pixels, the number after those of all labels."""
    return max(number for numbers in classes.numbers for number in numbers) + 1


def pixels_of(split: Split, index: int, image: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return the index-th image as [C, H, W]: its pixels, or with data.normalise=case float32 normalised by its case."""
    if split.case_statistics is None:
        return image.cpu().numpy()
    which = torch.tensor([index], device=split.device)
    return split.prepare_inputs(image[None].to(split.device), which)[0, : split.images.channels].cpu().numpy()
