"""A commented study file for a data set of one's own, to start from."""

import json
from typing import Any

TEMPLATE = """\
# Does diffusion help to segment {name}? Plain segmentation (E1) against diffusion (E2), with the fingerprint (E3).
#     diffseg plan {file} --data {root}
#     diffseg run {file} --data {root}
# `diffseg settings` lists all settings with their meaning. Lines that begin with # are off: remove the # to set them.

seeds = [0]  # more seeds, such as [0, 1, 2], give intervals that include the luck of training
experiments = ["e1", "e2", "e3"]  # e1 plain segmentation, e2 diffusion, e3 the mask alone, e4 images

# What holds for all trials.
[all]
data.size = 64  # px, of a side; published networks have 256
{channels}training.steps = 2000  # enough to see differences at 64 px; publications train 100000 and more
training.batch = 16
training.learning_rate = 1e-4
training.warmup = 100
training.ema = 0.999
# data.augment.flips = "symmetries"  # or "horizontal"; also degrees, zoom, brightness, …
diffusion.target = "x0"  # what is predicted; "epsilon" is the paper's, and learns masks more slowly
diffusion.activation = "tanh"  # keeps predicted masks in range
inference.steps = 10  # of sampling
inference.ensemble = 5  # samples, whose mean is the segmentation and whose spread its uncertainty

# The network: `diffseg networks` lists others, `diffseg presets` their published settings.
[network.ensemdiff]
network.width = 32
network.multipliers = [1, 2, 2]
network.blocks = 1
network.attention = [8]
# [network.segdiff]
# preset = "published/monuseg"

# The data set. Its folder is given on the command line.
[data.{table}]
data.layout = "{layout}"
{classes}
# Variants are compared with a baseline by `diffseg compare`, which otherwise compares E2 with E1.
# baseline = "epsilon"  # belongs above, beside seeds
# [variant.epsilon]
# diffusion.target = "epsilon"
# [variant.x0]
# diffusion.target = "x0"

# A search for better settings, judged by training images that are held out:
# [search]
# space = "everything"  # or, in place of this line, a table of ranges and choices below:
# budget = 32
# confirm = "3x3"
# [search.space]
# training.learning_rate = {{ low = 1e-5, high = 1e-3, log = true }}
# diffusion.target = {{ choices = ["epsilon", "x0", "v"] }}
# [search.start]
# data.held_out = 0.2
# training.evaluations = [0.25, 0.5]
"""
CLASSES = """\
# If masks hold several classes, name them with their values; pixels of data.ignore count nowhere:
# data.classes = {tumour = 1, vessel = [2, 3]}
# data.ignore = [255]
"""


def write_template(name: str, root: str, file: str, settings: dict[str, Any]) -> str:
    """Return the study file of a data set.

    Args:
        name: The data set's.
        root: NAME=ROOT, as the command line takes it.
        file: The study file, as the command line takes it.
        settings: Those of the data set by their dotted paths: its layout, and what its files or its user say.
    """
    own = {path: value for path, value in settings.items() if path not in ("data.name", "data.layout", "data.channels")}
    given = "".join(f"{path} = {_format(value)}\n" for path, value in own.items())
    channels = settings.get("data.channels")
    return TEMPLATE.format(
        name=name,
        root=root,
        file=file,
        table=json.dumps(name, ensure_ascii=False),
        layout=settings["data.layout"],
        channels="# data.channels = 1  # of images: 3 colours, or 1\n"
        if channels is None
        else f"data.channels = {channels}\n",
        classes=given if "data.classes" in own else given + CLASSES,
    )


def _format(value: Any) -> str:
    """Return a value in TOML. Tables are written inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_format(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_format, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
