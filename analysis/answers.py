"""What a study found on each data set, in sentences made of tested numbers: the first screen of the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import searches
from analysis.comparison import pairs_with_e1
from analysis.measurements import Sample, compare
from analysis.noise_levels import find_half_losses
from analysis.power import describe_needed
from analysis.segmentations import in_percent
from analysis.statistics import LEVEL, Estimate, holm
from analysis.tables import Tables
from analysis.verdicts import describe_interval, signed
from diffseg.evaluation.registry import METRICS
from diffseg.nouns import noun, patients
from studies.store.classes import ALL

POINTS = 100  # percentage points of an IoU of 1
NOT_TESTED = " (not tested: one value each, or no seed and image in common)"


@dataclass(frozen=True)
class Answer:
    """What was found on one data set."""

    dataset: str
    verdict: str  # of E2 against E1 in IoU: better, worse, undecided; "" without both
    sentences: list[str]
    counts: str  # of images, patients and seeds, in words


def answer_questions(tables: Tables, table1: pd.DataFrame) -> list[Answer]:
    """Return for each data set whether diffusion helps, also against nnU-Net, which configuration is best, and where half is lost.

    E1 and E2 are compared in the network of the greatest IoU of E2, each in its best variant. The p-values are those of Table 1,
    corrected for all of its rows. A data set without any answer is left out.

    table1: From `comparison.against_e1`, of all trials.
    """
    tested = in_percent(table1) if len(table1) else table1
    return [one for dataset in dict.fromkeys(tables.trials["dataset"]) if (one := _answer(tables, tested, dataset))]


def count_verdicts(answers: list[Answer]) -> str:
    """Return in how many data sets E2 has a better IoU than E1; nothing for fewer than two."""
    known = [one.verdict for one in answers if one.verdict]
    if len(known) < 2:
        return ""
    counts = [f"{word} on {known.count(word)}" for word in ("better", "worse", "undecided") if word in known]
    return f"Diffusion (E2) against feed-forward (E1) by IoU, on {len(known)} data sets: {', '.join(counts)}."


def _answer(tables: Tables, table1: pd.DataFrame, dataset: str) -> Answer | None:
    """Return what was found on a data set; None if nothing of it is known."""
    rows = table1[(table1["dataset"] == dataset) & (table1["class"] == ALL)] if len(table1) else table1
    both = rows.dropna(subset=["iou_e1", "iou_e2"]) if len(rows) else rows
    sentences, verdict = [], ""
    if len(both):
        best = both.sort_values(["iou_e2", "iou_e1"]).iloc[-1]
        verdict = _word(best["iou_verdict"])
        sentences += [*_count_networks(both), *_against_e1(tables, best, len(rows))]
    elif len(rows):
        missing = [name.upper() for name in ("e1", "e2") if rows[f"iou_{name}"].isna().all()]
        sentences.append(
            f"Whether diffusion helps is not known: no complete trial of {' or '.join(missing)} has an IoU."
        )
    sentences += [
        *_against_nnunet(tables, dataset),
        *_name_best(tables, dataset),
        *_name_searched(tables, dataset),
        *_find_half(tables, dataset),
    ]
    return Answer(dataset, verdict, sentences, _count(tables, dataset)) if sentences else None


def _count_networks(rows: pd.DataFrame) -> Iterator[str]:
    """Yield with how many of several networks E2 is better than E1, each by its best variants."""
    best = rows.sort_values(["iou_e2", "iou_e1"]).drop_duplicates("network", keep="last")
    if len(best) > 1:
        words = best["iou_verdict"].map(_word).value_counts()
        counted = ", ".join(f"{word} with {words[word]}" for word in ("better", "worse", "undecided") if word in words)
        yield f"Of {len(best)} networks, diffusion (E2) has a higher IoU than feed-forward (E1) as follows: {counted}."


def _against_e1(tables: Tables, row: pd.Series, count: int) -> Iterator[str]:
    """Yield E2 against E1 in one row of Table 1: IoU and ECE, and what would decide an undecided IoU.

    count: the rows of the data set, for which its p-values are corrected.
    """
    verdict = _word(row["iou_verdict"])
    variants = [
        f"{name} with {row[f'variant_{name.lower()}']}" for name in ("E1", "E2") if row[f"variant_{name.lower()}"]
    ]
    of = f" ({row['network']}{': ' if variants else ''}{', '.join(variants)})"
    means = f"IoU {row['iou_e2']:.1f} % against {row['iou_e1']:.1f} %"
    change = f"{signed(row['iou_difference'], '+.1f')} points{_limits(row, 'iou', '+.1f')}"
    if verdict == "undecided":
        yield f"Whether diffusion (E2) segments better than feed-forward (E1) is undecided{of}: {means}, {change}."
        (ours, theirs), *_ = pairs_with_e1(row.to_frame().T, tables)
        one, other = (tables.measurements.sample(trials, "iou") for trials in (ours, theirs))
        if one and other and (pairs := other.minus(one)):
            yield from describe_needed(pairs, POINTS, "points of IoU", count)
    else:
        yield f"Diffusion (E2) segments {verdict} than feed-forward (E1){of}: {means}, {change}."
    if not np.isnan(row["ece_difference"]):
        word = {"better": "better calibrated", "worse": "worse calibrated"}.get(_word(row["ece_verdict"]), "")
        difference = signed(row["ece_difference"], "+.3f")
        change = f"ECE {row['ece_e2']:.3f} against {row['ece_e1']:.3f}, {difference}{_limits(row, 'ece', '+.3f')}"
        yield f"It is {word}: {change}." if word else f"Which of them is better calibrated is undecided: {change}."
    if (brier := _word(row["brier_verdict"])) != "undecided":
        change = f"{signed(row['brier_difference'], '+.3f')}{_limits(row, 'brier', '+.3f')}"
        yield f"Its probabilities are {brier} by the Brier score: {change}."


def _against_nnunet(tables: Tables, dataset: str) -> Iterator[str]:
    """Yield the best configuration of E2 against the best one of nnU-Net, by IoU, where both were trained."""
    trials = tables.trials[tables.trials["dataset"] == dataset].dropna(subset=["iou"])
    nnunet, diffusion = trials[trials["network"] == "nnunet"], trials[trials["experiment"] == "e2"]
    if nnunet.empty or diffusion.empty:
        return
    best = [own[own["series"] == own.groupby("series")["iou"].mean().idxmax()] for own in (diffusion, nnunet)]
    ours, theirs = (tables.measurements.sample(own, "iou") for own in best)
    if ours is None or theirs is None:
        return
    one, _ = compare(ours, theirs)
    means = "IoU {:.1f} % against {:.1f} %".format(*(POINTS * own["iou"].mean() for own in best))
    points = one.times(POINTS)
    name = f"diffusion ({best[0]['series'].iloc[0]})"
    if np.isnan(one.p):
        yield f"Against nnU-Net, {name} has {means}{NOT_TESTED}."
        return
    interval = describe_interval(points.low, points.high, one.p, "+.1f")
    change = f"{signed(points.mean, '+.1f')} points{_describe_shared(*best)} ({interval})"
    if one.p < LEVEL:
        yield f"{name[0].upper()}{name[1:]} segments {'better' if one.mean > 0 else 'worse'} than nnU-Net: {means}, {change}."
    else:
        yield f"Whether {name} segments better than nnU-Net is undecided: {means}, {change}."


def _name_best(tables: Tables, dataset: str) -> Iterator[str]:
    """Yield the configuration of the greatest IoU on the test images, and its margin, where there are more than two."""
    trials = tables.trials[(tables.trials["dataset"] == dataset)].dropna(subset=["iou"])
    groups = dict(list(trials.groupby(["study", "series"], sort=False)))
    if len(groups) < 3:
        return
    order = sorted(groups, key=lambda key: -groups[key]["iou"].mean())
    samples = [tables.measurements.sample(groups[key], "iou") for key in order]
    if samples[0] is None:
        return
    found = [compare(samples[0], other)[0] for other in samples[1:] if other is not None]
    p = holm(np.array([one.p for one in found]))
    first, second = (key[1] for key in order[:2])
    shared = _describe_shared(groups[order[0]], groups[order[1]])
    yield (
        f"Of {len(order)} configurations, {first} has the greatest IoU, {100 * groups[order[0]]['iou'].mean():.1f} %: "
        f"{_margin(found[0], float(p[0]))} above the next, {second}{shared}."
    )


def _describe_shared(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Return in words from how many seeds a difference is, if the means are from others, too, and so differ by another number."""
    ours, theirs = set(one["seed"]), set(other["seed"])
    shared = len(ours & theirs)
    return "" if ours == theirs or not shared else f" on the {shared} seed{'s' * (shared > 1)} that both have"


def _margin(one: Estimate, p: float) -> str:
    """Return the margin of the best configuration in words."""
    points = one.times(POINTS)
    if np.isnan(p):
        return f"{signed(points.mean, '.1f')} points{NOT_TESTED}"
    decided = "" if p < LEVEL else ", undecided"
    interval = describe_interval(points.low, points.high, p, "+.1f")
    return f"{signed(points.mean, '.1f')} points ({interval}{decided})"


def _name_searched(tables: Tables, dataset: str) -> Iterator[str]:
    """Yield each search's best proposal by its first objective, and its margin over where the search began."""
    for one in tables.searches:
        ranked = searches.rank_proposals([one])
        measured = ranked[ranked["rank"].notna()]
        if one.start.data.name != dataset or measured.empty:
            continue
        metric = one.search.objective[0]
        best = measured.sort_values(["rank", "number"]).iloc[0]
        first = measured[measured["number"] == 0]
        start = f", where its start has {first[metric].iloc[0]:.3f}" if len(first) and best["number"] else ""
        word = "the start itself" if not best["number"] else f"proposal {best['number']} ({best['settings']})"
        proposals = f"{len(ranked)} {noun(len(ranked), 'proposal')}"
        yield (
            f"A search of {proposals} ({one.start.network.name}) ranks {word} first: {METRICS[metric].title} "
            f"{best[metric]:.3f} on held-out training images{start}. One seed each, so the order may be due to chance."
        )


def _find_half(tables: Tables, dataset: str) -> Iterator[str]:
    """Yield at which noise half of a mask is lost without the image."""
    found = find_half_losses([one for one in tables.measured_fingerprints if one[0]["dataset"] == dataset])
    if found.empty:
        return
    low, high = found["log_snr"].min(), found["log_snr"].max()
    level = signed(low, ".1f") if round(low, 1) == round(high, 1) else f"{signed(low, '.1f')} to {signed(high, '.1f')}"
    t = found["t"].dropna()
    times = f" (t = {t.mean():.2f} of its schedule)" if len(found) == len(t) == 1 else ""
    yield f"Without the image, half of a mask is lost at log-SNR {level}{times}."


def _count(tables: Tables, dataset: str) -> str:
    """Return the numbers of test images, patients and seeds of a data set in words."""
    trials = tables.trials[tables.trials["dataset"] == dataset]
    measured = trials.dropna(subset=["iou"])
    seeds = measured["seed"].nunique() if len(measured) else trials["seed"].nunique()
    words = [f"{seeds} seed{'' if seeds == 1 else 's'}"]
    samples = [
        sample
        for _, own in measured.groupby("series")
        if (sample := tables.measurements.sample(own, "iou")) and sample.images
    ]
    if samples:
        widest: Sample = max(samples, key=lambda sample: sample.images)
        units = (
            f" of {widest.units} {patients(widest.units)}"
            if len(widest.groups) and widest.units < widest.images
            else ""
        )
        words.insert(0, f"{widest.images} test image{'' if widest.images == 1 else 's'}{units}")
    return ", ".join(words)


def _limits(row: Any, metric: str, form: str) -> str:
    """Return the interval and p of a difference of Table 1 in words; nothing without them."""
    low, high, p = (row[f"{metric}_{name}"] for name in ("low", "high", "p"))
    if np.isnan(p):
        return NOT_TESTED
    return f" ({describe_interval(low, high, p, form)})"


def _word(verdict: Any) -> str:
    """Return the verdict of Table 1 in one word."""
    return verdict if verdict in ("better", "worse") else "undecided"
