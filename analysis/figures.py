"""The report's charts in their order, each with its caption and the trials that it needs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from analysis import charts, pictures, search_charts, search_settings, uncertainty_charts
from analysis.class_charts import class_errors, confusion
from analysis.comparison import LISTED, compare_configurations
from analysis.configurations import name_configurations
from analysis.difference_chart import differences
from analysis.sampling import sampling
from analysis.tables import Tables

SEARCHED = "a search's complete trials"
DIFFERENCES = (
    "Differences to the baseline with 95 % intervals, paired by seed and image, over patients (else images) and seeds; "
    "filled where they are significant after Holm's correction"
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
CHARTS: dict[Callable[[Tables], Any], tuple[str, str]] = {
    search_charts.optimisation: (
        "What every proposal of a search reached on the held-out images, and the best so far: over the proposals, and "
        "over the hours that they took",
        SEARCHED,
    ),
    search_settings.parallel_coordinates: (
        "The settings that were varied, a line for each proposal, each from its least to its greatest value; below, settings "
        "that a proposal does not have",
        SEARCHED,
    ),
    search_settings.importances: (
        "How much each setting explains of being among the best tenth of the proposals (PED-ANOVA; conditional settings in "
        "the regime where they are set)",
        f"{search_settings.LARGE} complete trials of a search",
    ),
    search_settings.slices: ("The objective over each setting alone; squares are the best", SEARCHED),
    search_charts.pareto_fronts: (
        "Two objectives against each other; squares and the line are the Pareto front. Draw a box to keep its points bright",
        "a search with several objectives",
    ),
    search_charts.pruning: (
        "What trials had reached where they were compared, and which were pruned there",
        "a search that prunes",
    ),
    search_charts.best_weights: (
        "The weight of each noise level in the training of the best proposals, over the data set's fingerprint (gray) where "
        "E3 has measured it",
        "a search's complete trials with errors over t (training.snapshots)",
    ),
    charts.mask_errors: (
        "Mask error over t with the image (E2) and without it (E3); at the end of training, of masks in ±1 "
        "(Fig. 3, left)",
        "complete trials of E2 or E3",
    ),
    charts.losses: (
        "Mean squared error of the predicted noise over t, for masks (E2) and images (E4), at the first "
        "snapshot of training (Fig. 3, middle and right)",
        "complete trials of E2 with the ε-target, or of E4",
    ),
    charts.fingerprints: (
        "Mask error over t without the image (E3), its derivative, and the weight of the noise levels made of it (Fig. 4): a "
        "line for each data set, the mean over its networks, which are dotted; the point is where the error is half its maximum",
        "complete trials of E3",
    ),
    charts.fingerprint_weights: (
        "Where a mask is decided: the derivative of the mask error (mask-error), of 1 − Dice (dice) and of the "
        "cross-entropy, and the entropy rate, each as a share of its greatest",
        "complete trials of E3",
    ),
    charts.effective_weights: (
        "The weight of each noise level in the training of E2, from schedule, target, weighting and density "
        "together: the weight on the squared error of ε per unit of log-SNR, as a share of its greatest",
        "complete trials of E2, by a version that records their weights",
    ),
    pictures.ensembles: (
        "Test images with their truth, and mean and standard deviation of the ensembles of E1 and E2 (Fig. "
        "1); white is 1 for the mean and 0.5 for the standard deviation. Several classes are drawn over the image in their "
        "colours, and the deviation is the greatest of them",
        "complete trials of E1 or E2 with inference.examples above 0",
    ),
    pictures.forward_process: (
        "The forward process on an image and on its mask (Fig. 2)",
        "complete trials of E2 to E4, and example pictures",
    ),
    charts.learning_curves: (
        "Training loss over the steps; losses of different experiments and targets are not comparable",
        "a complete trial",
    ),
    uncertainty_charts.reliability: (
        "Reliability: share of foreground, or of each of several classes, against predicted probability, pooled over the test "
        "pixels in ten bins, and the number of pixels in each bin",
        "complete trials of E1 or E2",
    ),
    uncertainty_charts.image_calibrations: (
        "ECE of single images, of their foreground (truth, prediction and the band around the contour) and of"
        " their boundary (that band alone): mean over images, and a bar over the middle half of them",
        "complete trials of E1 or E2, by a version that records it for every image",
    ),
    uncertainty_charts.risk_coverage_curves: (
        "Risk and coverage: mean 1 − Dice of the images that are kept when those of the greatest ensemble "
        "variance are left out; dotted, when the worst are left out",
        "complete trials of E1 or E2, by a version that records it for every image",
    ),
    uncertainty_charts.error_against_variance: (
        "Brier score against ensemble variance, in ten groups of images of similar variance; equal (the "
        "diagonal) where sampled masks are as frequent as they are likely",
        "complete trials of E1 or E2, by a version that records it for every image",
    ),
    pictures.error_maps: (
        "Test images: where the ensembles' means differ from the truth, and where their members differ (standard deviation); "
        "white is 1 for the error and 0.5 for the deviation; of several classes, the greatest is shown",
        "complete trials of E1 or E2 with inference.examples above 0",
    ),
    uncertainty_charts.ged_over_samples: (
        "Generalised energy distance over the number of samples: as published, which falls with it even for a"
        " perfect model, and without that bias",
        "complete trials on data of several raters",
    ),
}


@dataclass(frozen=True)
class Figure:
    """A chart of the report with its texts."""

    name: str
    caption: str
    needs: str  # the trials without which there is no chart
    chart: alt.TopLevelMixin | None

    @property
    def spec(self) -> str:
        """The Vega-Lite specification, as JSON that cannot end the script element that holds it."""
        return json.dumps(self.chart.to_dict() if self.chart else None).replace("<", "\\u003c")


def draw_figures(found: Tables) -> list[Figure]:
    """Draw the charts of the report that every report has, or says what they need."""
    return [_figure(draw.__name__, caption, needs, draw(found)) for draw, (caption, needs) in CHARTS.items()]


OPTIONAL: dict[Callable[..., Any], tuple[str, str]] = {
    differences: (DIFFERENCES, "a baseline"),
    sampling: (SAMPLING, "trials that differ in how they sample"),
    class_errors: (CLASS_ERRORS, "trials of several classes"),
    confusion: (CONFUSION, "trials of several exclusive classes"),
}  # drawn only if there is something to show


def draw_optional_figures(found: Tables, shown: Tables, compared: pd.DataFrame) -> list[Figure]:
    """Draw the charts that are shown only if there is something to show: differences, ways of sampling, and several classes.

    shown: the variants that charts have room for (`Tables.shown`). compared: from `comparison.compare_configurations`.
    """
    given: dict[Callable[..., Any], Any] = {differences: compared, sampling: found}
    figures = [
        _figure(draw.__name__, caption, needs, draw(given.get(draw, shown)))
        for draw, (caption, needs) in OPTIONAL.items()
    ]
    return [figure for figure in figures if figure.chart]


def draw_figure(name: str, found: Tables, shown: Tables) -> Figure:
    """Draw the chart of this name, one of CHARTS or OPTIONAL, as it is in the report. Raises KeyError for another name.

    shown: the variants that charts have room for (`Tables.shown`).
    """
    draw, (caption, needs) = {one.__name__: (one, texts) for one, texts in (CHARTS | OPTIONAL).items()}[name]
    given: Any = found if draw is sampling else shown
    if draw is differences:
        given = compare_configurations(found, name_configurations(list(found.ledgers)), LISTED)
    return _figure(name, caption, needs, draw(given))


def _figure(name: str, caption: str, needs: str, chart: Any) -> Figure:
    """Return a figure in the report's style. chart: None if there is nothing to draw."""
    styled = chart and (
        chart.configure_view(stroke="#ccc")
        .configure_axis(grid=True, gridColor="#eee", labelFontSize=11, titleFontSize=12)
        .configure_legend(orient="bottom", labelLimit=400, columns=2, symbolStrokeWidth=2)
        .configure_line(strokeWidth=2)
    )
    return Figure(name, caption, needs, styled)
