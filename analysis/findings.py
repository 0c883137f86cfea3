"""Tests of the findings of "Analysing Diffusion Segmentation for Medical Images" (Öttl et al., 2024) on a study's trials.

Claims on segmentations are tested over patients (or images) and seeds, claims on curves over t over seeds alone, since the
ledger has no curves of single images. Claims on curves over t hold for the paper's schedule only, linear β without input
scaling. A claim is not decidable if the study has no trials for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import linregress, spearmanr, ttest_ind

from analysis.comparison import pairs_with_e1
from analysis.frames import GROUP
from analysis.measurements import estimate_differences
from analysis.noise_levels import (
    average_over_seeds,
    epsilon_rows,
    find_agreement,
    find_half_losses,
    fit_fingerprints,
    select_snapshot,
)
from analysis.statistics import Estimate
from analysis.tables import Tables
from analysis.verdicts import Comparison, decide, describe, estimate_over_seeds, list_in_words
from diffseg.config import NETWORKS
from studies.store.classes import ALL

AGREE = (0.3, 0.5)  # the range of t that counts as "about the first 400 of 1000 steps"
MONOTONE, LINE = 0.95, 0.9  # the rank correlation from which a curve is monotone, and the R² from which it is a line
CONVERGED = 0.02  # the rise over the last tenth of t below which a curve has converged
APART = 2.0  # the ratio from which two errors differ
CURVE = ["dataset", "network", "series"]


class Claim(NamedTuple):
    """A part of a finding, with its evidence."""

    words: str
    comparisons: list[Comparison]
    needs: str  # the trials without which it is not decidable
    every: bool = False  # it is on all cases, so that a single one can contradict it


def check_findings(tables: Tables) -> pd.DataFrame:
    """Return the verdicts on the paper's five findings, in parts.

    Columns: finding (1 to 5), claim, verdict (see analysis/verdicts.py) and number, the comparisons in words with their 95 %
    intervals and p-values.
    """
    linear = _select_linear(tables)
    checks: tuple[tuple[Callable[[Tables], Iterator[Claim]], Tables], ...] = (
        (_check_table1, tables), (_check_image, linear), (_check_loss, linear), (_check_fingerprint, linear),
        (_check_uncertainty, tables),
    )  # fmt: skip
    rows = [
        {
            "finding": number,
            "claim": claim.words,
            "verdict": decide(claim.comparisons, claim.every),
            "number": list_in_words(claim.comparisons) if claim.comparisons else f"needs {claim.needs}",
        }
        for number, (check, given) in enumerate(checks, 1)
        for claim in check(given)
    ]
    return pd.DataFrame(rows)


def _check_table1(tables: Tables) -> Iterator[Claim]:
    """Yield the parts of finding 1: E2 against E1, and diffusion against feed-forward networks, in IoU and ECE."""
    needs = "E1 and E2 of one network"
    claim = "E2 has a lower ECE than E1 of the same network (in 8 of the paper's 9 comparisons)"
    yield Claim(claim, _against_e1(tables, "ece", "ECE of E2 − E1 {}", "+.3f", sign=-1), needs)
    claim = "E2 has a higher IoU than E1 of the same network (in 7 of the paper's 9 comparisons)"
    yield Claim(claim, _against_e1(tables, "iou", "IoU of E2 − E1 (%) {}", "+.2f", unit=100), needs)
    claim = "nnU-Net or SegFormer has the best IoU on every data set"
    yield Claim(claim, list(_compare_best(tables)), "one of them and a diffusion network", every=True)


def _against_e1(
    tables: Tables, metric: str, words: str, form: str, sign: int = 1, unit: float = 1.0
) -> list[Comparison]:
    """Compare E2 with E1 for each row of Table 1 that has both. words: with a place for the difference."""
    cells = tables.table1()
    if cells.empty:
        return []
    cells = cells[cells["class"] == ALL]
    found = []
    for row, one in zip(
        cells.to_dict("records"), estimate_differences(tables, pairs_with_e1(cells, tables), metric), strict=True
    ):
        if not np.isnan(one.mean):
            variants = [row[name] for name in ("variant_e1", "variant_e2") if row[name]]
            where = ", ".join([row["dataset"], row["network"], *variants])
            found.append(
                Comparison(sign * one.mean, one.p, f"{where}: {words.format(describe(one.times(unit), form))}")
            )
    return found


def _compare_best(tables: Tables) -> Iterator[Comparison]:
    """Compare, for each data set, the network of the greatest IoU with every network of the other kind.

    The kinds are feed-forward and diffusion networks.
    """
    trials = tables.trials.dropna(subset=["iou"])
    feed_forward = {name for name, network in NETWORKS.items() if "e2" not in network.experiments}
    for dataset, rows in trials.groupby("dataset", sort=False):
        groups = dict(list(rows.groupby(GROUP, sort=False)))
        means = {key: group["iou"].mean() for key, group in groups.items()}
        plain = {key for key in groups if key[GROUP.index("network")] in feed_forward}
        if not plain or len(plain) == len(groups):
            continue
        best = max(means, key=lambda key: means[key])
        sign = 1 if best in plain else -1
        others = [key for key in groups if (key in plain) != (best in plain)]
        found = estimate_differences(tables, [(groups[other], groups[best]) for other in others], "iou")
        closest = max(found, key=lambda one: one.p if one.p == one.p else np.inf)
        words = f"{best[GROUP.index('series')]} is best on {dataset}, by {describe(closest.times(100), '+.2f')}"
        p = [one.p for one in found]
        yield Comparison(sign * min(one.mean for one in found), np.nan if np.isnan(p).any() else max(p), words)


def _check_image(tables: Tables) -> Iterator[Claim]:
    """Yield the parts of finding 2: from which noise level on the image matters, E2 against E3."""
    rows = tables.timesteps[tables.timesteps["experiment"].isin(["e2", "e3"])].dropna(subset=["mask_error"])
    found = [
        find_agreement(average_over_seeds(own, "mask_error")).assign(seed=seed) for seed, own in rows.groupby("seed")
    ]
    found = pd.concat(found) if found else pd.DataFrame()
    near, ratios = [], []
    for (dataset, _, series), own in found.groupby(CURVE, sort=False) if len(found) else ():
        until = own["t"].fillna(0.0)  # NaN: they differ from the first level on
        near.append(Comparison.of([estimate_over_seeds(until - AGREE[0]), estimate_over_seeds(AGREE[1] - until)], ""))
        words = describe(estimate_over_seeds(until), ".2f", near[-1].p)
        words = (
            f"within 5 % of the greatest error up to t = {words}"
            if until.any()
            else "they differ from the first level on"
        )
        near[-1] = replace(near[-1], words=f"{dataset}, {series}: {words}")
        logs = np.log(own["e3_end"] / own["e2_end"])
        ratio, margin = estimate_over_seeds(logs), estimate_over_seeds(logs - np.log(APART))
        mean, low, high = np.exp([ratio.mean, ratio.low, ratio.high])
        factor = Estimate(mean, low, high, margin.p, ratio.effect)
        words = f"{dataset}, {series}: E3's error over E2's at t = 1 is {describe(factor, '.1f')}"
        ratios.append(Comparison(margin.mean, margin.p, words))
    needs = "E2 and E3 of one network and seed with the linear schedule"
    yield Claim("without the image, the mask error is the same up to about t = 0.4", near, needs)
    yield Claim("beyond, the error rises without the image and stays low with it", ratios, needs)


def _check_loss(tables: Tables) -> Iterator[Claim]:
    """Yield the parts of finding 3: the ε-loss over t, of images (E4) and of masks (E2)."""
    rows = epsilon_rows(tables)
    falls, shapes = [], []
    for (dataset, _, series), own in rows.groupby(CURVE, sort=False):
        curves = [curve.sort_values("t") for _, curve in select_snapshot(own, "first").groupby("trial", sort=False)]
        if own["experiment"].iloc[0] == "e4":
            ranks = [spearmanr(curve["t"], curve["loss"]).statistic for curve in curves if len(curve) > 2]
            if ranks:
                margin = estimate_over_seeds(-MONOTONE - np.array(ranks))
                words = f"{dataset}, {series}: rank correlation with t {describe(estimate_over_seeds(ranks), '.3f', margin.p)}"
                falls.append(Comparison(margin.mean, margin.p, words))
        elif measured := [shape for curve in curves if (shape := _measure_shape(curve))]:
            margins = [estimate_over_seeds(values) for values in zip(*measured, strict=True)]
            dip, jump, slope, line = margins
            words = (
                f"{dataset}, {series}: dip {np.exp(dip.mean):.2f}, jump {np.exp(jump.mean):.2f}, "
                f"slope {-slope.mean:+.3g}, R² of the line {line.mean + LINE:.2f}"
            )
            words += "" if len(measured) > 1 else " (one seed, so no interval)"
            shapes.append(Comparison.of(margins, words))
    claim = "for images (E4), the ε-loss falls monotonically over t"
    yield Claim(claim, falls, "E4")
    needs = "E2 with the ε-target and three noise levels up to t = 0.05 (inference.timesteps of 60 or more)"
    claim = "for masks (E2), it dips within t = 0.05, jumps up until 0.15, and then falls almost linearly"
    yield Claim(claim, shapes, needs)


def _measure_shape(curve: pd.DataFrame) -> tuple[float, ...] | None:
    """Return margins of E2's ε-loss over t, positive if it dips, jumps, falls, and falls along a line; None for too few levels."""
    t, loss = curve["t"].to_numpy(), curve["loss"].to_numpy()
    early, middle, late = loss[t <= 0.05], loss[(t > 0.05) & (t <= 0.15)], t > 0.15
    if len(early) < 3 or not len(middle) or late.sum() < 3:
        return None
    line = linregress(t[late], loss[late])
    return np.log(early[0] / early[1:].min()), np.log(middle.max() / early.min()), -line.slope, line.rvalue**2 - LINE


def _check_fingerprint(tables: Tables) -> Iterator[Claim]:
    """Yield the parts of finding 4: the order in which the data sets' mask errors rise, and whether they converge."""
    rows = tables.timesteps[tables.timesteps["experiment"] == "e3"].dropna(subset=["mask_error"])
    order = ["monuseg", "her2", "isic16"]
    halves: dict[str, list[float]] = {}
    rises: dict[str, list[float]] = {}
    for (dataset, _), own in rows[rows["dataset"].isin(order)].groupby(["dataset", "seed"], sort=False):
        curves = average_over_seeds(own, "mask_error")
        halves.setdefault(dataset, []).append(find_half_losses(fit_fingerprints(own))["t"].mean())
        rise = np.mean([_rise(curve) for _, curve in curves.groupby("network")])
        rises.setdefault(dataset, []).append(float(rise))
    present = [dataset for dataset in order if dataset in halves]
    found = [_compare_half_losses(a, b, halves[a], halves[b]) for a, b in pairwise(present)]
    claim = "the mask error rises soonest for MoNuSeg, later for HER2, last for ISIC16"
    yield Claim(claim, found, "E3 on two of them", every=True)
    found = []
    for dataset in ("her2", "isic16"):
        if dataset in rises:
            margin = estimate_over_seeds(np.array(rises[dataset]) - CONVERGED)
            words = f"{dataset}: rises over the last tenth of t by {describe(estimate_over_seeds(rises[dataset]), '.1%', margin.p)}"
            found.append(Comparison(margin.mean, margin.p, words))
    yield Claim("for HER2 and ISIC16 it has not converged at t = 1", found, "E3 on one of them", every=True)


def _rise(curve: pd.DataFrame) -> float:
    """Return the rise of an error over the last tenth of t, as a share of its end."""
    curve = curve.sort_values("t")
    return 1 - float(np.interp(0.9, curve["t"], curve["mean"])) / float(curve["mean"].iloc[-1])


def _compare_half_losses(first: str, second: str, ours: list[float], theirs: list[float]) -> Comparison:
    """Compare the t at which half of two data sets' masks is lost, by Welch's test over seeds."""
    one = Estimate(float(np.mean(theirs) - np.mean(ours)), *[np.nan] * 4)
    if len(ours) > 1 and len(theirs) > 1:
        if np.ptp(ours) or np.ptp(theirs):
            test = ttest_ind(theirs, ours, equal_var=False)
            interval = test.confidence_interval()
            one = Estimate(one.mean, interval.low, interval.high, test.pvalue, np.nan)
        else:
            one = Estimate(one.mean, one.mean, one.mean, float(one.mean == 0), np.nan)
    words = f"half is lost at t = {np.mean(ours):.3f} ({first}) and {np.mean(theirs):.3f} ({second}), "
    return Comparison(one.mean, one.p, words + f"difference {describe(one, '+.3f')}")


def _check_uncertainty(tables: Tables) -> Iterator[Claim]:
    """Yield the parts of finding 5: the ensembles' variance, E2 against E1."""
    found = _against_e1(tables, "variance", "mean variance of E2 − E1 {}", "+.4f")
    needs = "E1 and E2 of one network, by a version that records the ensemble's variance"
    yield Claim("feed-forward networks with noise as their input (E1) are less uncertain than E2", found, needs)


def _select_linear(tables: Tables) -> Tables:
    """Return the trials with the paper's noise levels: the linear schedule without scaling of the input."""
    trials = tables.trials
    kept = trials["config_diffusion_schedule"].fillna("linear") == "linear"
    if "config_diffusion_input_scale" in trials:
        kept &= trials["config_diffusion_input_scale"].fillna(1.0) == 1.0
    return tables if kept.all() else tables.part(trials[kept])
