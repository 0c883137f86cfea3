"""Training images and masks as the files that nnunetv2 reads, and its preparation of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diffseg.data.splits import Split
from diffseg.networks.nnunet.library import environment

NAME, SPACING = "Dataset001_diffseg", (999, 1, 1)  # nnunetv2's name and spacing for 2-D images without a physical size


def prepare(split: Split, work: Path) -> None:
    """Write raw data, nnunetv2's fingerprint, plans and preprocessed data into `work`: all of it, or nothing after a kill."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    temporary = work.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    processes = max(1, torch.get_num_threads())
    with environment(temporary, workers=processes):
        write_raw(split, temporary / "raw" / NAME)
        extract_fingerprints([1], num_processes=processes, show_progress_bar=False)
        plan_experiments([1])
        preprocess([1], configurations=("2d",), num_processes=(processes,), show_progress_bar=False)
    temporary.rename(work)


def write_raw(split: Split, root: Path) -> None:
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
        majority = masks.float().mean(0) > 0.5
        Image.fromarray(majority.byte().cpu().numpy()).save(root / label)
    description = {
        # nnunetv2 normalises each image by its own mean and deviation, unless a channel is called noNorm
        "channel_names": {
            str(channel): f"channel {channel}" if split.case_statistics is None else "noNorm"
            for channel in range(split.images.channels)
        },
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(split.names),
        "file_ending": ending,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "dataset": cases,  # without it nnunetv2 lists the files in forked processes, which can hang beside threads
    }
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def pixels_of(split: Split, index: int, image: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return the index-th image as [C, H, W]: its pixels, or with data.normalise=case float32 normalised by its case."""
    if split.case_statistics is None:
        return image.cpu().numpy()
    which = torch.tensor([index], device=split.device)
    return split.prepare_inputs(image[None].to(split.device), which)[0, : split.images.channels].cpu().numpy()
