"""The paper's own numbers, and whether its findings are seen in a study's.

"Analysing Diffusion Segmentation for Medical Images" (Öttl et al., 2024). A finding that the study's trials say nothing of is
not decidable. All that is stated over t holds for the paper's schedule alone, linear β without input scaling.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import linregress, spearmanr

from analysis import tables as t
from analysis.charts import epsilon_losses
from analysis.tables import Tables
from analysis.uncertainty import per_image

# Table 1: IoU (%) and ECE of E1, then of E2
TABLE1 = {
    "isic16": {
        "nnunet": (84.48, 0.147), "segformer": (88.34, 0.024), "ensemdiff": (84.92, 0.019, 86.59, 0.007),
        "segdiff": (85.86, 0.020, 86.39, 0.017), "medsegdiff": (83.22, 0.029, 83.73, 0.017),
    },
    "monuseg": {
        "nnunet": (71.43, 0.050), "segformer": (62.95, 0.055), "ensemdiff": (63.90, 0.061, 64.64, 0.041),
        "segdiff": (63.44, 0.059, 64.57, 0.038), "medsegdiff": (62.51, 0.055, 63.05, 0.085),
    },
    "her2": {
        "nnunet": (80.00, 0.104), "segformer": (80.36, 0.056), "ensemdiff": (72.57, 0.075, 73.70, 0.018),
        "segdiff": (74.90, 0.063, 72.80, 0.011), "medsegdiff": (70.04, 0.086, 67.10, 0.017),
    },
}  # fmt: skip
COLUMNS = ("iou_e1", "ece_e1", "iou_e2", "ece_e2")
FEED_FORWARD = ("nnunet", "segformer")
UNDECIDED = "not decidable"
AGREE = (0.3, 0.5)  # what is taken for "about the first 400 of 1000 steps"


def beside(table1: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with the paper's numbers in columns paper_iou_e1, … where it has the data set (by its name) and the network."""
    rows = [
        {"dataset": dataset, "network": network}
        | {f"paper_{name}": value for name, value in zip(COLUMNS, values, strict=False)}
        for dataset, networks in TABLE1.items()
        for network, values in networks.items()
    ]
    return table1.merge(pd.DataFrame(rows), on=["dataset", "network"], how="left")


def findings(tables: Tables) -> pd.DataFrame:
    """The paper's five findings, in parts: columns finding (1 to 5), claim, verdict (reproduced, not reproduced or not
    decidable) and number, the one that decides, in words."""
    linear = _linear(tables)
    rows = [
        {"finding": number, "claim": claim, "verdict": verdict, "number": said}
        for number, (check, given) in enumerate(
            ((_table1, tables), (_image, linear), (_loss, linear), (_fingerprint, linear), (_uncertainty, tables)), 1
        )
        for claim, verdict, said in check(given)
    ]
    return pd.DataFrame(rows)


def _verdict(holds: list) -> str:
    """Reproduced if it holds in most cases, not if in fewer than half of them."""
    balance = 2 * sum(holds) - len(holds)
    return "reproduced" if balance > 0 else "not reproduced" if balance < 0 else UNDECIDED


def _table1(tables: Tables) -> Iterator[tuple[str, str, str]]:
    cells, compared = tables.table1(), pd.DataFrame(columns=["iou_difference", "ece_difference"])
    if len(cells):
        compared = cells.dropna(subset=["iou_difference", "ece_difference"])
    for metric, claim, better, of_paper in (
        ("ece", "E2 has a lower ECE than E1 of the same network", compared["ece_difference"] < 0, "8 of 9"),
        ("iou", "E2 has a higher IoU than E1 of the same network", compared["iou_difference"] > 0, "7 of 9"),
    ):
        mean = compared[f"{metric}_difference"].mean()
        said = f"in {better.sum()} of {len(better)} comparisons, mean difference {mean:+.3f}; in the paper, {of_paper}"
        yield claim, _verdict(list(better)), said if len(better) else "needs E1 and E2 of one network"
    best = []
    for dataset, rows in cells.groupby("dataset") if len(cells) else ():
        values = rows.melt(["network"], ["iou_e1", "iou_e2"], value_name="iou").dropna(subset=["iou"])
        plain = values["network"].isin(FEED_FORWARD)
        if plain.any() and not plain.all():
            winner = values.loc[values["iou"].idxmax()]
            best.append(
                (winner["network"] in FEED_FORWARD, f"{winner['network']} on {dataset} ({winner['iou']:.1f} %)")
            )
    claim = "nnU-Net or SegFormer has the best IoU on every data set"
    verdict = ("reproduced" if all(ok for ok, _ in best) else "not reproduced") if best else UNDECIDED
    said = "best: " + ", ".join(text for _, text in best)
    yield claim, verdict, said if best else "needs one of them beside a diffusion network"


def _image(tables: Tables) -> Iterator[tuple[str, str, str]]:
    found = t.agreements(t.errors(tables, ["e2", "e3"], "mask_error"))
    rows = found.to_dict("records")
    told = [f"t = {row['t'] if row['t'] == row['t'] else 0:.2f} ({row['dataset']}, {row['series']})" for row in rows]
    near = [AGREE[0] <= row["t"] <= AGREE[1] for row in rows]
    needs = "needs E2 and E3 of one network with the linear schedule"
    claim = "without the image, the mask error is the same up to about t = 0.4"
    yield claim, _verdict(near), "within 10 % up to " + "; ".join(told) if rows else needs
    ratios = [row["e3_end"] / row["e2_end"] for row in rows]
    told = [f"{ratio:.1f} ({row['dataset']}, {row['series']})" for ratio, row in zip(ratios, rows, strict=True)]
    claim = "beyond, the error rises without the image and stays low with it"
    yield (
        claim,
        _verdict([r > 2 for r in ratios]),
        "E3's error over E2's at t = 1: " + "; ".join(told) if rows else needs,
    )


def _loss(tables: Tables) -> Iterator[tuple[str, str, str]]:
    curves = epsilon_losses(tables).sort_values("t")
    falls, shapes, images, masks = [], [], [], []
    for (experiment, dataset, network, _), curve in curves.groupby(["experiment", "dataset", "network", "series"]):
        where = f"({dataset}, {network})"
        if experiment == "e4" and len(curve) > 2:
            falls.append(spearmanr(curve["t"], curve["mean"]).statistic)
            images.append(f"{falls[-1]:.3f} {where}")
        early, middle, late = (
            curve[(curve["t"] > a) & (curve["t"] <= b)] for a, b in ((0, 0.05), (0.05, 0.15), (0.15, 1))
        )
        if experiment == "e2" and len(early) > 2 and len(middle) and len(late) > 2:
            line = linregress(late["t"], late["mean"])
            dip, jump = early["mean"].iloc[0] / early["mean"].min(), middle["mean"].max() / early["mean"].min()
            shapes.append(dip > 1 and jump > 1 and line.slope < 0 and line.rvalue**2 > 0.9)
            masks.append(f"dip {dip:.2f}, jump {jump:.2f}, R² of the line {line.rvalue**2:.2f} {where}")
    claim = "for images (E4), the ε-loss falls monotonically over t"
    yield (
        claim,
        _verdict([r < -0.95 for r in falls]),
        "rank correlation with t: " + "; ".join(images) if falls else "needs E4",
    )
    claim = "for masks (E2), it dips within t = 0.05, jumps up until 0.15, and then falls almost linearly"
    needs = "needs E2 with the ε-target and three noise levels up to t = 0.05 (inference.timesteps of 60 or more)"
    yield claim, _verdict(shapes), "; ".join(masks) if masks else needs


def _fingerprint(tables: Tables) -> Iterator[tuple[str, str, str]]:
    curves = t.errors(tables, ["e3"], "mask_error")
    order = ["monuseg", "her2", "isic16"]
    halves = t.half_maxima(curves) if len(curves) else pd.DataFrame(columns=["dataset", "t"])
    halves = halves[halves["dataset"].isin(order)].groupby("dataset")["t"].mean()
    present = [dataset for dataset in order if dataset in halves]
    told = "half of the maximum at " + ", ".join(f"t = {halves[dataset]:.3f} ({dataset})" for dataset in present)
    right = [halves[a] < halves[b] for a, b in pairwise(present)]
    claim = "the mask error rises soonest for MoNuSeg, later for HER2, last for ISIC16"
    verdict = ("reproduced" if all(right) else "not reproduced") if right else UNDECIDED
    yield claim, verdict, told if right else "needs E3 on two of them"
    ends = {}
    for (dataset, _), curve in curves[curves["dataset"].isin(["her2", "isic16"])].groupby(["dataset", "network"]):
        curve = curve.sort_values("t")
        ends.setdefault(dataset, []).append(1 - np.interp(0.9, curve["t"], curve["mean"]) / curve["mean"].iloc[-1])
    rises = {dataset: float(np.mean(values)) for dataset, values in ends.items()}
    told = "rise over the last tenth of t: " + ", ".join(f"{rise:.1%} ({dataset})" for dataset, rise in rises.items())
    claim = "for HER2 and ISIC16 it has not converged at t = 1"
    yield claim, _verdict([rise > 0.02 for rise in rises.values()]), told if rises else "needs E3 on one of them"


def _uncertainty(tables: Tables) -> Iterator[tuple[str, str, str]]:
    rows = per_image(tables, ["variance"]).dropna(subset=["variance"])
    means = rows.groupby(["dataset", "network", "experiment"])["variance"].mean().unstack()
    means = means.reindex(columns=["e1", "e2"]).dropna()
    told = [f"{row.e1:.4f} and {row.e2:.4f} ({', '.join(row.Index)})" for row in means.itertuples()]
    claim = "feed-forward networks with noise as their input (E1) are less uncertain than E2"
    needs = "needs E1 and E2 of one network, by a version that records the ensemble's variance"
    yield claim, _verdict(list(means["e1"] < means["e2"])), "mean variance " + "; ".join(told) if told else needs


def _linear(tables: Tables) -> Tables:
    """Trials with the paper's schedule."""
    trials = tables.trials
    kept = trials["config_diffusion_schedule"].fillna("linear") == "linear"
    if "config_diffusion_input_scale" in trials:
        kept &= trials["config_diffusion_input_scale"].fillna(1.0) == 1.0
    return tables if kept.all() else Tables(tables.ledgers, trials[kept], tables.failed)
