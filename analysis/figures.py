"""The report's charts in their order, each with its caption and the trials that it needs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from analysis import charts, pictures, search_charts, search_settings, uncertainty_charts
from analysis.class_charts import class_errors, confusion
from analysis.comparison import LISTED, compare_configurations, compare_table1
from analysis.configurations import name_configurations
from analysis.difference_chart import differences, e1_against_e2
from analysis.guarantees import controlled_risks
from analysis.needs import (
    E1_OR_E2,
    E2,
    E2_OR_E3,
    E3,
    EPSILON,
    EVALUATIONS,
    EXAMPLES,
    EXAMPLES_AND_LEVELS,
    RATERS,
    SEARCHED,
)
from analysis.sampling import sampling
from analysis.tables import Tables

DIFFERENCES = (
    "Differences to the baseline with 95 % intervals, paired by seed and image, over patients (else images) and seeds; "
    "filled where they are significant after Holm's correction"
)
FOREST = (
    "Differences E2 − E1 with 95 % intervals, paired by seed and image, over patients (else images) and seeds: a row for each of "
    "the table, filled where significant after Holm's correction"
)
SAMPLING = (
    "Quality against the network evaluations of an image, of trials that share a training: a point for each number of steps, a "
    "line for each sampler and ensemble size; filled where sampling ends once the mask has settled"
)
CLASS_ERRORS = (
    "Mask error of each class over t, as a share of the class's greatest error, with the image (E2) and without it (E3): a class "
    "whose error rises sooner is decided at less noise"
)
CONFUSION = (
    "How the pixels of each true class were predicted, as shares of that class, over all test images and seeds; the number of "
    "pixels is shown where the pointer is"
)
CONTROLLED_RISKS = (
    "Decisions with a guarantee: the mean loss of the patients who chose the threshold, and of those of the test images, over the "
    "threshold; points are the choices, and the dotted line is the level that the risk is to keep"
)
CHARTS: dict[Callable[[Tables], Any], tuple[str, tuple[str, str]]] = {
    pictures.ensembles: (
        "Of the test images that were kept, those of the worst, the middle and the best IoU, with the contour of the truth "
        "(white), and for E1 and E2 that of the ensemble's mask (orange), its mean, and the members' standard deviation. "
        "Several classes are drawn over the image in their colours, and the deviation is the greatest of them",
        EXAMPLES,
    ),
    uncertainty_charts.reliability: (
        "Reliability: share of foreground, or of each of several classes, against predicted probability, pooled over the test "
        "pixels in ten bins, and the number of pixels in each bin",
        E1_OR_E2,
    ),
    uncertainty_charts.image_calibrations: (
        "ECE of single images, of their foreground (truth, prediction and the band around the contour) and of"
        " their boundary (that band alone): median, and a bar over the middle half of the images",
        E1_OR_E2,
    ),
    uncertainty_charts.risk_coverage_curves: (
        "Risk and coverage: mean 1 − Dice of the images that are kept when those of the greatest ensemble "
        f"variance are left out; dotted, when the worst are left out; shaded, fewer than {uncertainty_charts.FEW} images are left",
        E1_OR_E2,
    ),
    uncertainty_charts.error_against_variance: (
        "Brier score against ensemble variance, in ten groups of images of similar variance; equal (the "
        "diagonal) where sampled masks are as frequent as they are likely",
        E1_OR_E2,
    ),
    pictures.error_maps: (
        "The same test images: where the ensembles' means differ from the truth (white is 1), and where their members differ "
        "(standard deviation, in the colours of the scale); of several classes, the greatest is shown",
        EXAMPLES,
    ),
    uncertainty_charts.ged_over_samples: (
        "Generalised energy distance over the number of samples: as published, which falls with it even for a"
        " perfect model, and without that bias",
        RATERS,
    ),
    charts.mask_errors: (
        "Mask error over t with the image (E2) and without it (E3); at the end of training, of masks in ±1 "
        "(Fig. 3, left)",
        E2_OR_E3,
    ),
    charts.fingerprints: (
        "Mask error over t without the image (E3), its derivative by −log-SNR, and the weight of the noise levels made of it "
        "(Fig. 4): a line for each data set, the mean over its networks, which are dotted; the point is where half of the mask is "
        "lost",
        E3,
    ),
    charts.fingerprint_weights: (
        "Where a mask is decided: the derivative of the mask error (mask-error), of 1 − Dice (dice) and of the "
        "cross-entropy, and the entropy rate, each as a share of its greatest",
        E3,
    ),
    charts.losses: (
        "Mean squared error of the predicted noise over t, for masks (E2) and images (E4), at the first "
        "snapshot of training (Fig. 3, middle and right)",
        EPSILON,
    ),
    charts.effective_weights: (
        "The weight of each noise level in the training of E2, from schedule, target, weighting and density "
        "together: the weight on the squared error of ε per unit of log-SNR, as a share of its greatest",
        E2,
    ),
    pictures.forward_process: ("The forward process on an image and on its mask (Fig. 2)", EXAMPLES_AND_LEVELS),
    search_charts.optimisation: (
        "What every proposal of a search reached on the held-out images, over the proposals: the line is the best so far, dashed "
        "is what the search began with; pruned proposals stand at what they had reached when they were stopped",
        SEARCHED,
    ),
    search_settings.parallel_coordinates: (
        "The settings that were varied, a line for each proposal, each from its least to its greatest value, the best proposal "
        "thick; below the axes, settings that a proposal does not have",
        SEARCHED,
    ),
    search_settings.importances: (
        "How much each setting explains of being among the best tenth of the proposals (PED-ANOVA; conditional settings in "
        "the regime where they are set)",
        (
            f"{search_settings.LARGE} complete trials of a search",
            f"diffseg run STUDY --extend --budget {2 * search_settings.LARGE}",
        ),
    ),
    search_settings.slices: ("The objective over each setting alone; squares are the best", SEARCHED),
    search_charts.pareto_fronts: (
        "Two objectives against each other; squares and the line are the Pareto front. Draw a box to keep its points bright",
        ("a search with several objectives", "diffseg run search --data NAME=ROOT --objective iou,ece"),
    ),
    search_charts.pruning: (
        "What trials had reached where they were compared, and which were pruned there",
        (
            "a search that compares its trials at two steps or more",
            "diffseg run search --data NAME=ROOT --pruning 3 'training.evaluations=[0.25, 0.5]'",
        ),
    ),
    search_charts.best_weights: (
        "The weight of each noise level in the training of the best proposals, over the data set's fingerprint (gray) where "
        "E3 has measured it",
        (
            "a search's complete trials with errors over t",
            "diffseg run search --data NAME=ROOT 'training.snapshots=[1.0]'",
        ),
    ),
    charts.learning_curves: (
        "Training loss over the steps; losses of different experiments and targets are not comparable",
        ("a complete trial", "diffseg run STUDY"),
    ),
    charts.validation_curves: (
        "IoU over the steps, of the images that are evaluated while training (training.evaluations), before the ensemble",
        EVALUATIONS,
    ),
}


@dataclass(frozen=True)
class Figure:
    """A chart of the report with its texts."""

    name: str
    caption: str
    needs: str  # the trials without which there is no chart
    command: str  # that would make them
    chart: alt.TopLevelMixin | None

    @property
    def spec(self) -> str:
        """The Vega-Lite specification, as JSON that cannot end the script element that holds it."""
        return json.dumps(self.chart.to_dict() if self.chart else None).replace("<", "\\u003c")


def draw_figures(found: Tables) -> list[Figure]:
    """Draw the charts of the report that every report has, or says what they need."""
    return [_figure(draw.__name__, caption, draw(found), *needs) for draw, (caption, needs) in CHARTS.items()]


OPTIONAL: dict[Callable[..., Any], tuple[str, str]] = {
    e1_against_e2: (FOREST, "complete trials of E1 and E2"),
    differences: (DIFFERENCES, "a baseline"),
    sampling: (SAMPLING, "trials that differ in how they sample"),
    controlled_risks: (CONTROLLED_RISKS, "trials with inference.risk"),
    class_errors: (CLASS_ERRORS, "trials of several classes"),
    confusion: (CONFUSION, "trials of several exclusive classes"),
}  # drawn only if there is something to show


def draw_optional_figures(found: Tables, shown: Tables, compared: pd.DataFrame, table1: pd.DataFrame) -> list[Figure]:
    """Draw the charts that are shown only if there is something to show: differences, ways of sampling, and several classes.

    Args:
        found: All trials.
        shown: The variants that charts have room for (`Tables.shown`).
        compared: From `comparison.compare_configurations`.
        table1: From `comparison.against_e1`.
    """
    given: dict[Callable[..., Any], Any] = {e1_against_e2: table1, differences: compared, sampling: found}
    figures = [
        _figure(draw.__name__, caption, draw(given.get(draw, shown)), needs)
        for draw, (caption, needs) in OPTIONAL.items()
    ]
    return [figure for figure in figures if figure.chart]


def draw_figure(name: str, found: Tables, shown: Tables) -> Figure:
    """Draw the chart of this name, one of CHARTS or OPTIONAL, as it is in the report. Raises KeyError for another name.

    shown: the variants that charts have room for (`Tables.shown`).
    """
    for draw, (caption, needs) in CHARTS.items():
        if draw.__name__ == name:
            return _figure(name, caption, draw(shown), *needs)
    draw, (caption, words) = {one.__name__: (one, texts) for one, texts in OPTIONAL.items()}[name]
    given: Any = found if draw is sampling else shown
    if draw is differences:
        given = compare_configurations(found, name_configurations(list(found.ledgers)), LISTED)
    elif draw is e1_against_e2:
        given = compare_table1(found, shown)[1]
    return _figure(name, caption, draw(given), words)


def _figure(name: str, caption: str, chart: Any, needs: str = "", command: str = "") -> Figure:
    """Return a figure in the report's style. chart: None if there is nothing to draw.

    Texts and grids have the colour of the page's text, so that they are seen in its light and its dark theme.
    """
    text: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor"}
    styled = chart and (
        chart.properties(background="transparent")
        .configure_view(stroke="#8884")
        .configure_axis(
            grid=True,
            gridColor="#8883",
            domainColor="#888",
            tickColor="#888",
            labelFontSize=12,
            titleFontSize=12,
            labelOverlap="greedy",
            labelSeparation=6,
            **text,
        )
        .configure_header(labelFontSize=13, titleFontSize=13, **text)
        .configure_title(fontSize=13, color="currentColor")
        .configure_legend(
            orient="bottom", labelFontSize=12, titleFontSize=12, labelLimit=400, columns=2, symbolStrokeWidth=2, **text
        )
        .configure_line(strokeWidth=2)
    )
    return Figure(name, caption, needs, command, styled)
