"""The report: one HTML file from the ledger, which opens offline and from which no request leaves."""

import contextlib
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import jinja2
import vl_convert

from analysis import charts, comparison, paper, pictures, sampling, searches, searching, tables, uncertainty
from analysis.findings import findings
from analysis.tables import NAMES, Tables, records
from diffseg.errors import UserError
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger

ROWS = 100  # of a table of trials, at most
PROPOSALS = 15  # of each search

SEARCHED = "a search's complete trials"
DIFFERENCES = (
    "Differences to the baseline with 95 % intervals, paired by seed and image, over patients (else images) and seeds; "
    "filled where they are significant after Holm's correction"
)
SAMPLING = (
    "Quality against the network evaluations of an image, of trials that share a training: a point a number of steps, a line a "
    "sampler and a size of the ensemble; filled where samples end when their mask has settled"
)
CHARTS = {  # in the report's order: what each shows, and what it needs
    searching.optimisation: (
        "What every proposal of a search reached on the held-out images, and the best so far: over the proposals, and "
        "over the hours that they took",
        SEARCHED,
    ),
    searching.parallel_coordinates: (
        "The settings that were varied, a line a proposal, each from its least to its greatest value; below, those that a "
        "proposal does not have",
        SEARCHED,
    ),
    searching.importances: (
        "How much each setting tells of whether a proposal is among the best tenth (PED-ANOVA; conditional settings in the "
        "regime where they are set)",
        f"{searching.LARGE} complete trials of a search",
    ),
    searching.slices: ("The objective over each setting alone; squares are the best", SEARCHED),
    searching.pareto_fronts: (
        "Two objectives against each other; squares and the line are the Pareto front. Draw a box to keep what is in it "
        "bright",
        "a search with several objectives",
    ),
    searching.pruning: (
        "What trials had reached where they were compared, and which were pruned there",
        "a search that prunes",
    ),
    searching.best_weights: (
        "What a noise level counts in the training of the best proposals, over the data set's fingerprint (gray) where E3 "
        "has measured it",
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
        "Mask error over t without the image (E3), its derivative, and the weight of the timesteps made of "
        "that (Fig. 4): a line a data set, the mean over its networks, which are dotted; the point is where "
        "the error is half its maximum",
        "complete trials of E3",
    ),
    charts.fingerprint_weights: (
        "Where a mask is decided: the derivative of the mask error (mask-error), of 1 − Dice (dice) and of the "
        "cross-entropy, and the entropy rate, each as a share of its greatest",
        "complete trials of E3",
    ),
    charts.effective_weights: (
        "What a noise level counts in the training of E2, from schedule, target, weighting and density "
        "together: the weight on the squared error of ε per unit of log-SNR, as a share of its greatest",
        "complete trials of E2, by a version that records their weights",
    ),
    pictures.ensembles: (
        "Test images with their truth, and mean and standard deviation of the ensembles of E1 and E2 (Fig. "
        "1); white is 1 for the mean and 0.5 for the standard deviation",
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
    uncertainty.reliability: (
        "Reliability: share of foreground against predicted probability, pooled over the test pixels in ten "
        "bins, and how many pixels each bin has",
        "complete trials of E1 or E2",
    ),
    uncertainty.image_calibrations: (
        "ECE of single images, of their foreground (truth, prediction and the band around the contour) and of"
        " their boundary (that band alone): mean over images, and a bar over the middle half of them",
        "complete trials of E1 or E2, by a version that records it of every image",
    ),
    uncertainty.risk_coverage_curves: (
        "Risk and coverage: mean 1 − Dice of the images that are left when those of greatest ensemble "
        "variance are set aside; dotted, if the worst were",
        "complete trials of E1 or E2, by a version that records it of every image",
    ),
    uncertainty.error_against_variance: (
        "Brier score against ensemble variance, in ten groups of images alike in variance; equal (the "
        "diagonal) where sampled masks are as likely as they are frequent",
        "complete trials of E1 or E2, by a version that records it of every image",
    ),
    pictures.error_maps: (
        "Test images: where the ensembles' means differ from the truth, and where their members differ (standard deviation); "
        "white is 1 for the error and 0.5 for the deviation",
        "complete trials of E1 or E2 with inference.examples above 0",
    ),
    uncertainty.ged_over_samples: (
        "Generalised energy distance over the number of samples: as published, which falls with it even for a"
        " perfect model, and without that bias",
        "complete trials on data of several raters",
    ),
}


@dataclass(frozen=True)
class Figure:
    name: str
    caption: str
    needs: str
    chart: alt.TopLevelMixin | None

    @property
    def spec(self) -> str:
        """The Vega-Lite specification, as JSON that cannot end the script element it stands in."""
        return json.dumps(self.chart.to_dict()).replace("<", "\\u003c")


def figures(found: Tables) -> list[Figure]:
    """All charts of the report but the comparison's, drawn."""
    made = []
    for draw, (caption, needs) in CHARTS.items():
        chart = draw(found)
        made.append(Figure(draw.__name__, caption, needs, _styled(chart) if chart else None))
    return made


def write(ledgers: list[Ledger], path: Path, png: Path | None = None) -> Path:
    """Write the report of one or more studies; with png, also every chart into that folder. Raises UserError if none of
    their trials has ended."""
    found = tables.load(ledgers)
    shown = found.shown()
    against = comparison.compared(found, comparison.names(ledgers))
    drawn = figures(shown)
    if chart := comparison.differences(against):
        drawn.append(Figure("differences", DIFFERENCES, "a baseline", _styled(chart)))
    if chart := sampling.sampling(found):
        drawn.append(Figure("sampling", SAMPLING, "trials that differ in how they sample", _styled(chart)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    table1, ours = tables.table1(shown), tables.table1(found)
    tried = searches.ranked(ledgers)
    best_tried = tried.groupby("search", sort=False).head(PROPOSALS) if len(tried) else tried
    page = environment.get_template("report.html.j2").render(
        studies=[ledger.study for ledger in ledgers],
        summary=_summary(found, ledgers),
        findings=records(findings(shown)),
        table1=records(comparison.against_e1(paper.beside(table1), shown)) if len(table1) else [],
        left_out=len(ours) - len(table1),
        compared=records(comparison.against_first(tables.studies(found), found)) if len(ledgers) > 1 else [],
        figures={figure.name: figure for figure in drawn},
        agreements=records(tables.agreements(tables.errors(shown, ["e2", "e3"], "mask_error"))),
        half_maxima=records(tables.half_maxima(tables.errors(shown, ["e3"], "mask_error"))),
        fingerprints=_fingerprints(shown),
        aurc=records(uncertainty.aurc(shown)),
        left_out_images=records(uncertainty.left_out(shown)),
        searches=records(best_tried),
        more_searched=len(tried) - len(best_tried),
        comparison=records(against),
        costs=records(searches.costs(ledgers)),
        metrics=comparison.NAMES,
        failed=records(found.failed.head(ROWS)),
        more_failed=max(0, len(found.failed) - ROWS),
        provenance=_provenance(found, ledgers),
        javascript=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    for figure in drawn if png else ():
        if figure.chart:
            try:
                png.mkdir(parents=True, exist_ok=True)
                figure.chart.save(str(png / f"{figure.name}.png"), scale_factor=2)
            except OSError as error:
                raise UserError(
                    f"the charts cannot be written to {png} ({error}): give another place with --png DIR"
                ) from None
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        return temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the report cannot be written to {path} ({error}): give another place with --output FILE"
        ) from None


def _fingerprints(found: Tables) -> list[dict]:
    """What the squared error's fingerprint of each data set says."""
    rows = []
    for group, one in tables.measured_fingerprints(found):
        if one.kind == "mask-error":
            try:
                words = " ".join(one.words())
            except UserError as error:
                words = f"Nothing can be told: {error}."
            rows.append(group | {"words": words})
    return rows


def _styled(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    return (
        chart.configure_view(stroke="#ccc")
        .configure_axis(grid=True, gridColor="#eee", labelFontSize=11, titleFontSize=12)
        .configure_legend(orient="bottom", labelLimit=400, columns=2, symbolStrokeWidth=2)
        .configure_line(strokeWidth=2)
    )


def _summary(found: Tables, ledgers: list[Ledger]) -> dict:
    definitions = [ledger.definition() or {} for ledger in ledgers]
    asked = sum(len(each.get("trials", {})) for each in definitions)
    asked += sum(
        bool(one.config and not one.config.data.held_out) for ledger in ledgers for one in read_proposals(ledger)
    )
    return {
        "asked": asked,
        "complete": len(found.trials),
        "failed": len(found.failed),
        "missing": max(0, asked - len(found.trials) - len(found.failed)),
        "experiments": [NAMES.get(name, name) for name in sorted(set(found.trials["experiment"].dropna()))],
        "datasets": sorted(set(found.trials["dataset"].dropna())),
        "networks": sorted(set(found.trials["network"].dropna())),
        "seeds": found.trials["seed"].nunique(),
        "hours": float(found.trials["seconds"].sum()) / 3600,
        "devices": sorted(set(found.trials["device"].dropna())),
    }


def _provenance(found: Tables, ledgers: list[Ledger]) -> dict:
    versions: dict[str, set] = {}
    for text in found.trials["versions"].dropna():
        for package, version in json.loads(text).items():
            versions.setdefault(package, set()).add(version)
    commits = {
        f"{row.git_commit[:12]}{' (changed since)' if row.dirty else ''}"
        for row in found.trials.dropna(subset=["git_commit"]).itertuples()
    }
    return {
        "commands": [command for ledger in ledgers if (command := (ledger.definition() or {}).get("command"))],
        "versions": {package: ", ".join(sorted(values)) for package, values in versions.items()},
        "commits": sorted(commits),
        "hosts": sorted(set(found.trials["host"].dropna())),
        "devices": sorted(set(found.trials["device"].dropna())),
        "gpu_hours": float(found.trials["gpu_seconds"].sum()) / 3600,
        "memory": float(found.trials["peak_memory_bytes"].max()) / 2**30,
        "report": f"diffseg report {' '.join(ledger.study for ledger in ledgers)}",
        "more": max(0, len(found.trials) - ROWS),
        "trials": records(
            found.trials.head(ROWS)[
                ["trial", "dataset", "data_digest", "train_images", "test_images", "parameters", "seconds", "device"]
            ]
        ),
    }
