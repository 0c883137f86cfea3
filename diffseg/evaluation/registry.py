"""The metrics: one entry each, read by the ledger, the commands, the comparison, the charts and the manual.

A new metric is a function and an entry here. The registry imports neither torch nor pyarrow, so that commands start fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from diffseg.evaluation.calibration import Calibration
    from diffseg.evaluation.images import TestImages


@dataclass(frozen=True)
class Condition:
    """The test images for which a metric is defined."""

    words: str
    holds: Callable[[TestImages], bool]


ALWAYS = Condition("every test image", lambda images: True)
SEVERAL_RATERS = Condition("images with masks of several raters", lambda images: images.raters.shape[2] > 1)


@dataclass(frozen=True)
class Metric:
    """A metric of segmentations: its name, its meaning, and the function that computes it."""

    name: str  # in the ledger and on the command line
    title: str  # in tables and charts
    function: str  # "module:function"; of TestImages, or of the Calibration if pooled
    definition: str  # formula and source
    larger_is_better: bool | None  # None: neither, as of a description
    unit: str = "fraction"
    least: float = 0.0  # that a value can be
    most: float = 1.0
    pooled: bool = False  # over the pixels of all test images; else per image, then averaged
    joint: bool = False  # of all classes at once; else of each class, then averaged
    ranks: bool = (
        True  # trials are ranked by it: a column of the table `trials`; else it is stored of single images alone
    )
    listed: bool = True  # in the terminal's tables and the report's comparison, not only where it is asked for
    applies: Condition = ALWAYS

    def compute(self, of: TestImages | Calibration) -> torch.Tensor | float:
        """Return the metric of each class of each test image [B, K], or [B] if joint, or of the pooled calibration."""
        module, _, name = self.function.partition(":")
        function: Callable[[TestImages | Calibration], torch.Tensor | float] = getattr(import_module(module), name)
        return function(of)

    @property
    def range(self) -> str:
        """The range of its values in words."""
        if self.unit == DISTANCE:
            return "0 to the image's diagonal,"
        least = f"{self.least:g}".replace("-", "\u2212")
        return f"{least} and above" if self.most == math.inf else f"{least} to {self.most:g}"

    def loss(self, value: float) -> float:
        """Return the value, turned so that less is better."""
        return -value if self.larger_is_better else value


DISTANCE = "mm or px"  # unit of distances: mm where the spacing of all images is known
MEASURES: dict[str, Metric] = {}  # all metrics, in the order in which they are computed and stored
METRICS: dict[str, Metric] = {}  # the metrics by which trials are ranked: columns of the table `trials`, in this order


def register(metric: Metric) -> None:
    """Add a metric. The ledger's columns and the commands' choices are made of the metrics known when they are imported."""
    MEASURES[metric.name] = metric
    if metric.ranks:
        METRICS[metric.name] = metric


# fmt: off
for _entry in (
    Metric(
        "iou", "IoU", "diffseg.evaluation.pixels:iou",
        "|P ∩ Y| / |P ∪ Y| of the predicted foreground P and the mask Y; 1 if both are empty (Jaccard, 1912). "
        "With several raters, Y is what more than half of them marked.",
        larger_is_better=True,
    ),
    Metric(
        "dice", "Dice", "diffseg.evaluation.pixels:dice",
        "2 |P ∩ Y| / (|P| + |Y|); 1 if both are empty (Dice, 1945). Y as for the IoU.",
        larger_is_better=True,
    ),
    Metric(
        "nsd", "NSD", "diffseg.evaluation.shapes:nsd",
        "Normalised surface distance: the share of the contours' pixels of P and Y that are at most `inference.nsd_tolerance` "
        "from the other contour (Nikolov et al., 2021); 0 if one of both is empty, 1 if both are. A contour is the pixels of a "
        "mask with one of the four neighbours outside. Y as for the IoU.",
        larger_is_better=True,
    ),
    Metric(
        "hd95", "HD95", "diffseg.evaluation.shapes:hd95",
        "The greater of both directions' 95th percentiles of the distances between the contours (Huttenlocher et al., 1993); the "
        "image's diagonal if one of P and Y is empty, 0 if both are.",
        larger_is_better=False, most=math.inf, unit=DISTANCE,
    ),
    Metric(
        "assd", "ASSD", "diffseg.evaluation.shapes:assd",
        "Average symmetric surface distance: mean over the pixels of both contours of the distance to the other one (Heimann et "
        "al., 2009); the image's diagonal if one of P and Y is empty, 0 if both are.",
        larger_is_better=False, most=math.inf, unit=DISTANCE, listed=False,
    ),
    Metric(
        "boundary_iou", "boundary IoU", "diffseg.evaluation.pixels:boundary_iou",
        "IoU of the bands of P and of Y: their pixels at most 2 % of the image's diagonal from their contour, in rows and in "
        "columns (Cheng et al., 2021); 0 if one of P and Y is empty, 1 if both are.",
        larger_is_better=True, listed=False,
    ),
    Metric(
        "object_precision", "precision of objects", "diffseg.evaluation.shapes:object_precision",
        "TP / (TP + FP): the share of predicted objects that match an annotated one with an IoU above 0.5; 0 without predicted "
        "objects, 1 if there are no objects at all. Objects of P are its connected components with 8 neighbours. Those of Y are "
        "the annotated ones where they are known, else components, too.",
        larger_is_better=True, ranks=False,
    ),
    Metric(
        "object_recall", "recall of objects", "diffseg.evaluation.shapes:object_recall",
        "TP / (TP + FN): the share of annotated objects that match; 0 without annotated objects, 1 if there are no objects at all.",
        larger_is_better=True, ranks=False,
    ),
    Metric(
        "object_f1", "F1 of objects", "diffseg.evaluation.shapes:object_f1",
        "2 TP / (2 TP + FP + FN); 0 if only one of P and Y has objects, 1 if none has.",
        larger_is_better=True, listed=False,
    ),
    Metric(
        "panoptic_quality", "panoptic quality", "diffseg.evaluation.shapes:panoptic_quality",
        "Sum of the matched objects' IoUs, divided by TP + FP/2 + FN/2 (Kirillov et al., 2019); 0 if only one of P and Y has "
        "objects, 1 if none has.",
        larger_is_better=True, listed=False,
    ),
    Metric(
        "ece", "ECE", "diffseg.evaluation.calibration:pooled_ece",
        "Expected calibration error Σ_b n_b/N |accuracy_b − confidence_b| over ten equal bins of p(foreground) "
        "(Naeini et al., 2015); of several classes, the mean over them (class-wise ECE, Kull et al., 2019).",
        larger_is_better=False, pooled=True,
    ),
    Metric(
        "ece_top", "ECE of the top label", "diffseg.evaluation.calibration:pooled_top_label_ece",
        "The expected calibration error of the most probable of the classes and the background: ten equal bins of its "
        "probability, and how often it is the true one (Guo et al., 2017). Classes that may overlap are taken one by one against "
        "their background, and averaged.",
        larger_is_better=False, pooled=True, listed=False,
    ),
    Metric(
        "ace", "ACE", "diffseg.evaluation.calibration:pooled_ace",
        "Adaptive calibration error: as the ECE, but in ten bins of equally many pixels, mean over the classes (Nixon et al., "
        "2019). A pixel's bin is the share of pixels with a smaller p, times ten, rounded down, so that pixels of equal p share "
        "a bin: bins are less equal the fewer values p has. p counts in steps of 1/65536.",
        larger_is_better=False, pooled=True, listed=False,
    ),
    Metric(
        "mce", "MCE", "diffseg.evaluation.calibration:pooled_mce",
        "Maximum calibration error max_b |accuracy_b − confidence_b| over the ECE's bins that have pixels, mean over the classes "
        "(Naeini et al., 2015). A bin of few pixels may decide it.",
        larger_is_better=False, pooled=True, listed=False,
    ),
    Metric(
        "brier", "Brier", "diffseg.evaluation.pixels:brier_score",
        "Mean of (p − y)² over the pixels, and over the raters (Brier, 1950).",
        larger_is_better=False,
    ),
    Metric(
        "nll", "NLL", "diffseg.evaluation.pixels:negative_log_likelihood",
        "Mean of −ln p(true class) over the pixels, and over the raters; of one class −y ln p − (1 − y) ln(1 − p), and the "
        "mean of that over classes that may overlap. p of n sampled masks is clipped to [½/(n + 1), (n + ½)/(n + 1)], a "
        "network's own probability to [1e-6, 1 − 1e-6].",
        larger_is_better=False, most=13.8, unit="nats", joint=True,
    ),
    Metric(
        "ece_image", "ECE of an image", "diffseg.evaluation.pixels:ece_image",
        "The ECE of all pixels of one image.",
        larger_is_better=False, ranks=False,
    ),
    Metric(
        "ece_boundary", "ECE of the boundary", "diffseg.evaluation.pixels:ece_boundary",
        "The ECE of the pixels within 2 % of the image's diagonal of the mask's contour, on both sides (the band: Cheng et "
        "al., 2021); NaN without a contour.",
        larger_is_better=False, ranks=False,
    ),
    Metric(
        "ece_foreground", "ECE of the foreground", "diffseg.evaluation.pixels:ece_foreground",
        "The ECE of the mask, that band, and the predicted foreground; NaN if there are no such pixels.",
        larger_is_better=False, ranks=False,
    ),
    Metric(
        "variance", "ensemble variance", "diffseg.evaluation.pixels:variance",
        "Variance of the ensemble's members, mean over the pixels.",
        larger_is_better=None, most=0.25, ranks=False,
    ),
    Metric(
        "true_pixels", "pixels of the mask", "diffseg.evaluation.pixels:true_pixels",
        "|Y|, Y as for the IoU.",
        larger_is_better=None, most=math.inf, unit="px", ranks=False,
    ),
    Metric(
        "predicted_pixels", "predicted pixels", "diffseg.evaluation.pixels:predicted_pixels",
        "|P|.",
        larger_is_better=None, most=math.inf, unit="px", ranks=False,
    ),
    Metric(
        "shared_pixels", "shared pixels", "diffseg.evaluation.pixels:shared_pixels",
        "|P ∩ Y|. The Dice of a volume is 2 Σ |P ∩ Y| / Σ (|P| + |Y|), with sums over its slices.",
        larger_is_better=None, most=math.inf, unit="px", ranks=False,
    ),
    Metric(
        "iou_raters", "IoU, mean over raters", "diffseg.evaluation.raters:iou_raters",
        "Mean over the raters of the IoU with each rater's mask.",
        larger_is_better=True, applies=SEVERAL_RATERS,
    ),
    Metric(
        "dice_raters", "Dice, mean over raters", "diffseg.evaluation.raters:dice_raters",
        "Mean over the raters of the Dice with each rater's mask.",
        larger_is_better=True, applies=SEVERAL_RATERS,
    ),
    Metric(
        "ged", "GED", "diffseg.evaluation.raters:generalised_energy_distance",
        "Generalised energy distance 2 E d(S, Y) − E d(S, S′) − E d(Y, Y′) of samples S and raters Y with d = 1 − IoU, "
        "mean over the classes "
        "(Kohl et al., 2018, Eq. 3), as the V-statistic of the literature: a perfect model of n samples scores E d(Y, Y′)/n.",
        larger_is_better=False, most=2, joint=True, applies=SEVERAL_RATERS,
    ),
    Metric(
        "ged_unbiased", "GED, unbiased", "diffseg.evaluation.raters:unbiased_energy_distance",
        "The generalised energy distance without the V-statistic's bias in the samples (U-statistic); NaN for one sample.",
        larger_is_better=False, least=-0.5, most=2, joint=True, applies=SEVERAL_RATERS,
    ),
    Metric(
        "hm_iou", "HM-IoU", "diffseg.evaluation.raters:hm_iou",
        "Mean IoU of the best one-to-one matching of samples and raters, both repeated to the least common multiple of "
        "their numbers (Zbinden et al., 2023).",
        larger_is_better=True, joint=True, applies=SEVERAL_RATERS,
    ),
    Metric(
        "ncc", "NCC", "diffseg.evaluation.raters:cross_correlation",
        "Normalised cross-correlation of the samples' cross-entropy with their mean and that with a rater's mask, mean over "
        "the raters (S_NCC, Baumgartner et al., 2019); NaN where one of both maps is constant.",
        larger_is_better=True, least=-1, applies=SEVERAL_RATERS,
    ),
    Metric(
        "d_max", "D_max", "diffseg.evaluation.raters:maximum_dice_matching",
        "Maximum Dice matching: mean over the raters of the best Dice of any sample (Rahman et al., 2023), which more samples "
        "raise; empty against empty is 1.",
        larger_is_better=True, listed=False, applies=SEVERAL_RATERS,
    ),
    Metric(
        "ci", "CI", "diffseg.evaluation.raters:collective_insight_score",
        "Collective insight 3 S_c D_max D_a / (S_c + D_max + D_a) (Rahman et al., 2023). S_c: the share of the raters' union that "
        "the samples' union contains, 1 if the former is empty. D_a = 1 − (|ΔV_max| + |ΔV_min|)/2: V_max and V_min are the "
        "greatest and the least variance over the pixels of the difference of two masks, also of one with itself; Δ: of the "
        "samples and of the raters. 1 if all masks are empty.",
        larger_is_better=True, listed=False, applies=SEVERAL_RATERS,
    ),
):
    register(_entry)
# fmt: on
