"""Data frames from ledgers, and the numbers that the report states."""

import json
import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffseg.errors import UserError
from diffseg.fingerprint import ERRORS, fingerprint
from studies.ledger import METRICS, Ledger
from studies.search import fronts, losses, proposals

NAMES = {"e1": "E1 feed-forward", "e2": "E2 diffusion", "e3": "E3 mask prediction", "e4": "E4 image generation"}
NOT_A_CHOICE = ("config_seed", "config_experiment", "config_data_", "config_network_name", "config_inference_")
BASELINES = ("config_inference_seeds", "config_inference_augment", "config_inference_merge")  # E1's for uncertainty
GROUP = ["dataset", "experiment", "network", "variant", "series"]  # trials that differ in their seed only


@dataclass(frozen=True)
class Tables:
    """The last attempts of all trials of some studies; every frame but `failed` holds complete ones only.

    Trials of a search, which are tested on held-out images, are not among them: see `searches`. All have the columns
    trial, study, experiment, dataset, network, seed; `variant`, in words the settings in which trials of one experiment,
    data set and network differ ("" if they do not); and `series`, which names experiment, variant and, if there are
    several, network, alike in all frames.
    """

    trials: pd.DataFrame
    failed: pd.DataFrame
    curves: pd.DataFrame
    timesteps: pd.DataFrame  # with `share`, the step as a share of the trial's steps
    calibration: pd.DataFrame
    examples: pd.DataFrame
    images: pd.DataFrame


def load(ledgers: list[Ledger]) -> Tables:
    """Raises UserError if no trial of the studies has ended."""
    last = [pd.DataFrame(ledger.last()) for ledger in ledgers]
    last = [frame for frame in last if len(frame)]
    if not last:
        names = ", ".join(ledger.study for ledger in ledgers)
        raise UserError(
            f"no trial of {names} has ended yet, so there is nothing to report: `diffseg status {names}` tells how far it is"
        )
    every = pd.concat(last, ignore_index=True)
    if "config_data_held_out" in every:
        every = every[~(every["config_data_held_out"] > 0)]
    trials = every[every["status"] == "complete"].copy()
    trials["variant"] = _variants(trials)
    trials["series"] = _series(trials)
    key = ["trial", "attempt", *GROUP, "seed", "config_training_steps"]

    def joined(table: str) -> pd.DataFrame:
        rows = pd.concat([ledger.read(table).to_pandas() for ledger in ledgers], ignore_index=True)
        return rows.merge(trials[key], on=["trial", "attempt"])

    timesteps = joined("timesteps")
    timesteps["share"] = timesteps["step"] / timesteps["config_training_steps"]
    return Tables(
        trials,
        every[every["status"] == "failed"],
        joined("curves"),
        timesteps,
        joined("calibration"),
        joined("examples"),
        joined("images"),
    )


def searches(ledgers: list[Ledger]) -> pd.DataFrame:
    """What searches have proposed and what came of it, the best first: a row a proposal, without confirmations.

    Columns: study, search, dataset, objective (names, separated by commas), number, source, trial, status (complete, pruned,
    failed, refused, or open), the metrics on the held-out images, rank (0 for the best, or for the Pareto front of several
    objectives; NaN without a value), settings (in words) and error.
    """
    frames = [_proposals(ledger) for ledger in ledgers if (ledger.definition() or {}).get("search")]
    found = [frame for frame in frames if len(frame)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _proposals(ledger: Ledger) -> pd.DataFrame:
    objective = tuple(ledger.definition()["search"]["objective"])
    ended, rows = {row["trial"]: row for row in ledger.last(["status", "dataset", "error", *METRICS])}, []
    for proposal in proposals(ledger):
        row = ended.get(proposal.trial, {})
        status = "refused" if proposal.reason else row.get("status", "open")
        rows.append(
            {
                "study": ledger.study,
                "search": proposal.search,
                "dataset": row.get("dataset"),
                "objective": ", ".join(objective),
                "number": proposal.number,
                "seed": proposal.seed,
                "source": proposal.source,
                "trial": proposal.trial,
                "status": status,
                **{metric: row.get(metric) for metric in METRICS},
                "losses": losses(row, objective) if status == "complete" else None,
                "settings": in_words(proposal.settings),
                "error": proposal.reason or row.get("error"),
            }
        )
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame = frame[frame["seed"] == frame.groupby("search")["seed"].transform("min")]  # confirmations have later ones
    measured, frame["rank"] = frame[frame["losses"].notna()], np.nan
    for _, group in measured.groupby("search"):
        frame.loc[group.index, "rank"] = fronts(list(group["losses"]))
    return frame.sort_values(["search", "rank", "number"]).drop(columns=["losses", "seed"])


def in_words(settings: dict) -> str:
    values = {path.removeprefix("diffusion.").replace("_", " "): value for path, value in settings.items()}
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def table1(tables: Tables) -> pd.DataFrame:
    """IoU (%) and ECE of E1 and E2 and their differences, a row for every data set, network and variant of E2.

    Columns: dataset, network, variant, images, then for each of e1 and e2 `iou`, `iou_sd`, `ece`, `ece_sd`, `seeds`, and
    `iou_difference`, `ece_difference` (E2 − E1). Means and sample standard deviations are over seeds.
    """
    segmented = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    if segmented.empty:
        return pd.DataFrame()
    group = segmented.assign(iou=100 * segmented["iou"]).groupby(
        ["experiment", "dataset", "network", "variant"], sort=False
    )
    means = group.agg(
        iou=("iou", "mean"),
        iou_sd=("iou", "std"),
        ece=("ece", "mean"),
        ece_sd=("ece", "std"),
        seeds=("seed", "nunique"),
        images=("test_images", "max"),
    ).reset_index()
    e1, e2 = (means[means["experiment"] == name].drop(columns="experiment") for name in ("e1", "e2"))
    rows = e1.merge(e2, on=["dataset", "network"], how="outer", suffixes=("_e1", "_e2"))
    rows["images"] = rows["images_e1"].fillna(rows["images_e2"]).astype(int)
    rows["iou_difference"], rows["ece_difference"] = rows["iou_e2"] - rows["iou_e1"], rows["ece_e2"] - rows["ece_e1"]
    return rows.drop(columns=["images_e1", "images_e2"])


def errors(tables: Tables, experiments: list[str], value: str, snapshot: str = "last") -> pd.DataFrame:
    """Mean, least and greatest `value` (mask_error or loss) over seeds at every t, of the "first" or the "last" snapshot.

    With the columns of GROUP and `step`, t in steps of 1000.
    """
    rows = tables.timesteps[tables.timesteps["experiment"].isin(experiments)].dropna(subset=[value])
    chosen = rows.groupby("trial")["step"].transform("min" if snapshot == "first" else "max")
    rows = rows[rows["step"] == chosen]
    group = rows.groupby([*GROUP, "t"], sort=False)
    found = group.agg(
        mean=(value, "mean"),
        low=(value, "min"),
        high=(value, "max"),
        log_snr=("log_snr", "mean"),
        seeds=("seed", "nunique"),
        share=("share", "max"),
    ).reset_index()
    return found.assign(step=(1000 * found["t"]).round())


def half_maxima(curves: pd.DataFrame) -> pd.DataFrame:
    """Where each data set's mask error reaches half its greatest value: columns dataset, network, series, t, mean."""
    rows = []
    for (dataset, network, series), curve in curves.groupby(["dataset", "network", "series"], sort=False):
        curve = curve.sort_values("t")
        half = curve["mean"].max() / 2
        above = int((curve["mean"].to_numpy() >= half).argmax())
        t = np.interp(
            half,
            curve["mean"].to_numpy()[max(0, above - 1) : above + 1],
            curve["t"].to_numpy()[max(0, above - 1) : above + 1],
        )
        rows.append({"dataset": dataset, "network": network, "series": series, "t": float(t), "mean": half})
    return pd.DataFrame(rows)


def fingerprints(tables: Tables) -> list[dict]:
    """The fingerprints of every kind that E3's trials have measured, of the mean over seeds: dataset, series, fingerprint."""
    rows = tables.timesteps[tables.timesteps["experiment"] == "e3"]
    found = []
    for (dataset, _, _, _, series), group in rows.groupby(GROUP, sort=False):
        trials = [trial.to_dict("records") for _, trial in group.groupby("trial", sort=False)]
        for kind, error in ERRORS.items():
            if group[error].notna().all():  # earlier versions measured the squared error alone
                found.append({"dataset": dataset, "series": series, "fingerprint": fingerprint(trials, kind)})
    return found


def agreements(curves: pd.DataFrame, tolerance: float = 0.1) -> pd.DataFrame:
    """Up to which t the mask errors of a network's E2 and E3 differ by less than the tolerance.

    Columns dataset, series, t, and the two errors at t = 1 (e2_end, e3_end). t is NaN where they differ from the start.
    """
    rows = []
    for (dataset, _), curve in curves.groupby(["dataset", "network"], sort=False):
        e3 = curve[curve["experiment"] == "e3"].groupby("t")["mean"].mean()
        for series, e2 in curve[curve["experiment"] == "e2"].groupby("series", sort=False):
            e2 = e2.set_index("t")["mean"]
            both = e3.index.intersection(e2.index).sort_values()
            if both.empty:
                continue
            near = ((e2[both] - e3[both]).abs() < tolerance * e3[both]).to_numpy()
            last = len(near) if near.all() else int(near.argmin())
            rows.append(
                {
                    "dataset": dataset,
                    "series": series,
                    "t": both[last - 1] if last else np.nan,
                    "e2_end": e2[both[-1]],
                    "e3_end": e3[both[-1]],
                }
            )
    return pd.DataFrame(rows)


def _series(frame: pd.DataFrame) -> pd.Series:
    several = frame["network"].nunique() > 1
    network = ", " + frame["network"] if several else ""
    variant = frame["variant"].map(lambda text: f", {text}" if text else "")
    return frame["experiment"].map(NAMES) + network + variant


def _variants(trials: pd.DataFrame) -> pd.Series:
    """The varying settings of each trial among those of its experiment, data set and network, as words."""
    labels = pd.Series("", index=trials.index)
    columns = [
        c for c in trials.columns if c in BASELINES or (c.startswith("config_") and not c.startswith(NOT_A_CHOICE))
    ]
    for _, group in trials.groupby(["experiment", "dataset", "network"]):
        varying = [c for c in columns if group[c].astype(str).nunique() > 1]
        for index, row in group.iterrows():
            labels[index] = ", ".join(_value(column, row[column]) for column in varying if not pd.isna(row[column]))
    return labels


def _value(column: str, value) -> str:
    name = column.removeprefix("config_").partition("_")[2].replace("_", " ")
    if column == "config_diffusion_target":
        return {"epsilon": "ε"}.get(value, value)
    if column == "config_inference_seeds":
        count = len(json.loads(value))
        return f"deep ensemble of {count}" if count else "one network"
    if column == "config_inference_augment":
        return {"none": "no test-time augmentation", "symmetries": "test-time augmentation"}[value]
    if column == "config_diffusion_profile":  # knots are too many to name
        return "no profile" if value == "[]" else f"profile {zlib.crc32(value.encode()):08x}"
    if isinstance(value, bool | np.bool_):
        return name if value else f"no {name}"
    if isinstance(value, float):
        return f"{name} {value:g}"
    return f"{name} {value}" if name in ("schedule", "weighting", "density", "loss", "ends") else str(value)
