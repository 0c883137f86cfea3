"""The facts of a model card in words: what the ledger and the configuration say of a trial's data, network and training."""

import math
import shlex
from collections.abc import Iterable
from typing import Any

from analysis.card_subject import Subject
from analysis.guarantees import tabulate_risks
from analysis.series import EXPERIMENTS
from analysis.verdicts import signed
from diffseg.config import Config
from diffseg.config.data import Data
from diffseg.nouns import noun, patients
from studies.definition.distinctions import format_setting
from studies.definition.trial import ROLES

UNKNOWN = "not recorded"
NORMALISATION = {
    "range": "pixels are scaled to [−1, 1]",
    "standard": "each channel has mean 0 and deviation 1 over the training images",
    "case": "each channel has mean 0 and deviation 1 over each image or volume",
}


HEADS = {"low-rank": "normal distribution of the logits", "latent": "latent variable"}  # by head.kind


def collect_facts(subject: Subject) -> dict[str, str]:
    """Return the facts by the names that checklists.toml uses, as plain text."""
    config, row = subject.config, subject.row
    return {
        "technology": describe_technology(config),
        "input": describe_input(config.data),
        "output": describe_output(subject),
        "preprocessing": describe_preprocessing(subject),
        "source": f"data set {config.data.name}, layout {config.data.layout}, digest {row['data_digest'] or UNKNOWN}",
        "subsets": describe_subsets(config.data),
        "split": describe_split(config.data),
        "counts": describe_counts(subject),
        "classes": describe_classes(config.data),
        "network": f"{config.network.name}, {count(row['parameters'])} parameters",
        "software": describe_software(subject),
        "initialisation": describe_initialisation(config),
        "training": f"{count(row['steps'])} optimiser steps, seed {describe_seeds(config)}",
        "selection": f"the weights at the end of training; the trial was {ROLES.get(row['role'], UNKNOWN)}",
        "ensemble": describe_ensemble(config),
        "undefined": describe_undefined(subject),
        "units": describe_units(subject),
        "predict": "diffseg predict",
    }


def count(value: float | None) -> str:
    """Return a whole number with separators of thousands."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a duration in seconds, and from one hour on also in hours."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds:,.0f} s ({seconds / 3600:.1f} h)" if seconds >= 3600 else f"{seconds:,.1f} s"


def describe_technology(config: Config) -> str:
    """Return the kind of method, such as "deep learning: E2 diffusion segmentation with the network segdiff"."""
    words = f"deep learning: {EXPERIMENTS[config.experiment]} segmentation with the network {config.network.name}"
    if config.head.kind != "none":
        words += f", with a {HEADS[config.head.kind]} to sample masks from"
    return f"{words}, with Monte Carlo dropout" if config.inference.dropout else words


def describe_input(data: Data) -> str:
    """Return what the network sees of an image."""
    fit = "resized as a whole" if data.fit == "resize" else "crops in training, overlapping tiles in prediction"
    channels = f"{data.channels} channel{'s' * (data.channels > 1)}"
    return f"two-dimensional images, {data.size} × {data.size} px, {channels}; {fit}"


def describe_output(subject: Subject) -> str:
    """Return what the network says of an image, and when a pixel is foreground."""
    config = subject.config
    if len(config.data.class_names) > 1 and not config.data.regions:
        return "a probability of each class in each pixel; a pixel belongs to the most probable one"
    risks = tabulate_risks(subject.alone).to_dict("records")
    grouped = subject.tested.notna().any()
    rule = _describe_guarantee(risks[0], grouped) if risks else f"foreground is above {config.inference.threshold:g}"
    return f"a probability of each class in each pixel; {rule}"


def _describe_guarantee(risk: dict[str, Any], grouped: bool) -> str:
    """Return in words a threshold that was chosen by `inference.risk` (`guarantees.tabulate_risks`) and what it led to."""
    units = patients(risk["chosen_by"]) if grouped else noun(risk["chosen_by"], "image")
    marked = f"foreground is above {risk['threshold']:g}" if risk["threshold"] >= 0 else "every pixel is foreground"
    low, high = (signed(risk[name], ".3f") for name in ("risk_low", "risk_high"))
    limits = "" if math.isnan(risk["risk_low"]) else f", 95 % interval {low} to {high}"
    return (
        f"{marked}, which {risk['chosen_by']:,} {units} chose that training did not see: of a new one's mask, an expected "
        f"share of {risk['level']:g} is missed at most, if new ones are like those; {risk['risk']:.3f} was missed on average in "
        f"the {risk['units']:,} of the test{limits}"
    )


def describe_preprocessing(subject: Subject) -> str:
    """Return how pixels become the network's numbers, with the ends of their range in each channel."""
    data, scaling = subject.config.data, subject.read_json("scaling")
    words = f"{NORMALISATION[data.normalise]}; {describe_input(data).partition('; ')[2]}"
    try:
        ends = ", ".join(f"{low:g} to {high:g}" for low, high in zip(scaling["low"], scaling["high"], strict=True))
        return f"{words}; values become −1 to 1 from {ends} ({scaling['bits']} bits; by channel)"
    except (KeyError, TypeError, ValueError):
        return words


def describe_subsets(data: Data) -> str:
    """Return which part of the images was used."""
    limits = [
        f"at most {limit:,} {split} images (data.{split}_images)"
        for split, limit in (("train", data.train_images), ("test", data.test_images))
        if limit and data.layout != "synthetic"
    ]
    crops = ["one random crop of each test image (data.test_crops)"] if data.test_crops else []
    return ", ".join(limits + crops) or "all images"


def describe_split(data: Data) -> str:
    """Return how the images were divided into those to train on and those to test on."""
    words = "training and test images are drawn independently"
    if data.layout != "synthetic":
        words = (
            "the split that the files give; where they give none, a fifth is drawn for testing, in whole patients or volumes where "
            f"these are known (data.split_seed={data.split_seed})"
        )
    if data.calibration:
        share = f"a share of {data.calibration:g} of the training images, in whole patients or volumes"
        words += f"; {share}, was left to choose a threshold by"
    if not data.held_out:
        return words
    return (
        f"{words}; of the training images a share of at least {data.held_out:g} (data.held_out, part {data.fold}), in whole "
        "patients or volumes where these are known, was kept out of training and was scored in place of the test images"
    )


def describe_counts(subject: Subject) -> str:
    """Return the numbers of images that were trained on and scored."""
    row = subject.row
    return f"{count(row['train_images'])} training images, {count(row['test_images'])} {row['scored_on']} images"


def describe_groups(subject: Subject) -> str:
    """Return the number of patients or volumes among the images that were scored."""
    groups = subject.tested
    if groups.empty:
        return UNKNOWN
    if not groups.notna().any():
        return "the data name none"
    without = int(groups.isna().sum())
    return f"{groups.nunique():,}" + (f", and {without:,} images without one" if without else "")


def describe_units(subject: Subject) -> str:
    """Return what intervals take as independent."""
    if subject.tested.notna().any():
        return "95 % intervals take patients or volumes as independent, since images of one are alike"
    return "95 % intervals take images as independent, since the data name no patients or volumes"


def describe_classes(data: Data) -> str:
    """Return the classes of the masks with their values."""
    if data.classes:
        named = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in data.classes)
        words = f"{named} ({'may overlap' if data.regions else 'exclusive'})"
    elif data.foreground:
        words = f"one, the foreground: {format_setting(data.model_dump(mode='json')['foreground'])}"
    else:
        words = "one, the foreground: 255 or 1, or the objects that the layout draws"
    return words + (f"; ignored values: {', '.join(map(str, data.ignore))}" if data.ignore else "")


def describe_software(subject: Subject) -> str:
    """Return the versions of diffseg, Python and packages that the trial ran with."""
    versions = subject.read_json("versions")
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN


def describe_commit(row: dict[str, Any]) -> str:
    """Return the commit of the code, and whether it had been changed since."""
    if not row["git_commit"]:
        return UNKNOWN
    return str(row["git_commit"]) + (", with changes that were not committed" if row["dirty"] else "")


def describe_initialisation(config: Config) -> str:
    """Return where the weights start."""
    pretrained = getattr(config.network, "weights", "none")
    start = "random" if pretrained == "none" else f"an encoder that was pretrained on {pretrained}, others random"
    return f"{start}, by seed {describe_seeds(config)}"


def describe_seeds(config: Config) -> str:
    """Return the seed, or those of the members of a deep ensemble."""
    return ", ".join(map(str, config.inference.seeds or (config.seed,)))


def describe_ensemble(config: Config) -> str:
    """Return how many networks and predictions are merged."""
    networks = len(config.inference.seeds) or 1
    words = f"a deep ensemble of {networks} networks" if networks > 1 else "one network"
    predictions = config.inference.ensemble
    merged = f"merged by {config.inference.merge}" if predictions * networks > 1 else "not merged"
    return f"{words}, {predictions} prediction{'s' * (predictions > 1)} of each image by each network, {merged}"


def describe_undefined(subject: Subject) -> str:
    """Return for how many images a metric is undefined, so that its mean leaves them out."""
    left_out = {name: number for name, number in subject.read_json("left_out").items() if number}
    if not left_out:
        return "no metric is recorded as undefined for an image"
    return f"undefined and left out of the mean: {join_counts(left_out)}"


def join_counts(counts: dict[str, Any]) -> str:
    """Return numbers of images by metric in words."""
    return ", ".join(f"{name} of {number} {noun(number, 'image')}" for name, number in counts.items())


def predict_command(subject: Subject) -> str:
    """Return the command that segments new images with the trial."""
    words = ["diffseg", "predict", subject.ledger.study, subject.trial, "my-images/", "--store", subject.ledger.store]
    return shlex.join([*words, "--output", "predictions"])


def list_settings(config: Config) -> Iterable[tuple[str, str, str]]:
    """Yield the path, value and default of every setting. Defaults are those of the experiment with its network."""
    defaults = Config().with_leaves({"network.name": config.network.name, "experiment": config.experiment})
    usual = defaults.resolved().leaves()
    for path, value in config.leaves().items():
        yield path, format_setting(value), format_setting(usual.get(path))
