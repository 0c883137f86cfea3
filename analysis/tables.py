"""Data frames from ledgers, and the numbers that the report states."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from diffseg.errors import UserError
from diffseg.fingerprint.curve import ERRORS, Fingerprint, compute_fingerprint
from studies.store.ledger import Ledger
from studies.store.tables import METRICS

NAMES = {"e1": "E1 feed-forward", "e2": "E2 diffusion", "e3": "E3 mask prediction", "e4": "E4 image generation"}
NOT_A_CHOICE = ("config_seed", "config_experiment", "config_data_", "config_network_name", "config_inference_")
BASELINES = ("config_inference_seeds", "config_inference_augment", "config_inference_merge")  # E1's for uncertainty
GROUP = ["study", "dataset", "experiment", "network", "variant", "series"]  # trials that differ in their seed only


@dataclass(frozen=True)
class Tables:
    """The last attempts of all trials of some studies. Other tables than `trials` are read when they are asked for.

    Trials of a search, which are tested on held-out images, are not among them: see analysis/searches.py. Those of E3 that
    fingerprints are made of are. All frames have the columns study, trial, attempt, experiment, dataset, network, seed; `variant`,
    the study's name of one, or in words the settings in which trials of one experiment, data set and network differ ("" if they do
    not); and `series`, which names experiment, variant and, if there are several, network and study, alike in all frames.
    Columns, units and what a row is: studies/ledger.py.
    """

    ledgers: tuple[Ledger, ...]
    trials: pd.DataFrame  # complete ones
    failed: pd.DataFrame

    def dataset(self, table: str) -> ds.Dataset:
        """All rows of a table, of every attempt that ended, for scans by columns and filters."""
        found = [ledger.dataset(table) for ledger in self.ledgers]
        schema = pa.unify_schemas([one.schema for one in found], promote_options="permissive")
        return ds.dataset([one.replace_schema(schema) for one in found])

    def frame(self, table: str, columns: list[str] | None = None, where: ds.Expression | None = None) -> pd.DataFrame:
        """A table's rows of the trials, only some columns and those that meet `where`, such as field("metric") == "iou"."""
        columns = columns and [*dict.fromkeys(["trial", "attempt", *columns])]
        key = ["study", "trial", "attempt", *(name for name in GROUP if name != "study"), "seed"]
        found = []
        for ledger in self.ledgers:
            ours = self.trials.loc[self.trials["study"] == ledger.study, key]
            rows = ledger.read(table, columns, ours["trial"].tolist(), where).to_pandas()
            rows = rows.drop(columns=[name for name in key[3:] if name in rows])  # fingerprints name their data set
            found.append(rows.merge(ours, on=["trial", "attempt"]))
        return pd.concat(found, ignore_index=True)

    @cached_property
    def timesteps(self) -> pd.DataFrame:
        """With `share`, the step as a share of the trial's steps."""
        steps = self.trials[["study", "trial", "config_training_steps"]]
        rows = self.frame("timesteps").merge(steps, on=["study", "trial"])
        return rows.assign(share=rows["step"] / rows["config_training_steps"])

    @cached_property
    def calibration(self) -> pd.DataFrame:
        return self.frame("calibration")

    @cached_property
    def examples(self) -> pd.DataFrame:
        return self.frame("examples")

    @cached_property
    def images(self) -> pd.DataFrame:
        return self.frame("images")

    def curves(self) -> pd.DataFrame:
        """Learning curves: step, metric, value."""
        return self.frame("curves")

    def best(self, metric: str = "iou") -> pd.DataFrame:
        """Trials with a segmentation, of each data set the best first. Metrics: studies.store.ledger.METRICS, as fractions."""
        measured = self.trials.dropna(subset=[metric])
        ordered = measured.sort_values(["dataset", metric], ascending=[True, not METRICS[metric]], kind="stable")
        columns = [*GROUP[:-1], "seed", "trial", *METRICS, "seconds"]
        return ordered[columns].reset_index(drop=True)

    def pareto(self, metrics: tuple[str, ...] = ("iou", "ece")) -> pd.DataFrame:
        """The rows of `best` that no other of the data set equals or beats in all metrics and beats in one."""
        found = self.best(metrics[0]).dropna(subset=list(metrics))
        losses = found[list(metrics)] * [-1 if METRICS[metric] else 1 for metric in metrics]
        kept = [index for _, rows in losses.groupby(found["dataset"]) for index in front(rows)]
        return found.loc[sorted(kept)].reset_index(drop=True)

    def table1(self) -> pd.DataFrame:
        """See `table1` below."""
        return table1(self)

    def fingerprints(self) -> pd.DataFrame:
        """See `fingerprints` below."""
        return fingerprints(self)

    def shown(self, variants: int = 4) -> "Tables":
        """Only the best variants of each study, data set, experiment and network, by IoU, or else the first ones: what a
        chart can show, and all that has to be read for it."""
        groups = self.trials.groupby(GROUP, sort=False)["iou"].mean().reset_index()
        groups = groups.sort_values("iou", ascending=False, kind="stable", na_position="last")
        kept = groups.groupby(["study", "dataset", "experiment", "network"], sort=False).head(variants)
        return Tables(self.ledgers, self.trials.merge(kept[GROUP], on=GROUP), self.failed)


def load(ledgers: list[Ledger]) -> Tables:
    """Raises UserError if no trial of the studies has ended."""
    last = [_last(ledger) for ledger in ledgers]
    last = [frame for frame in last if len(frame)]
    if not last:
        names = ", ".join(ledger.study for ledger in ledgers)
        raise UserError(
            f"no trial of {names} has ended yet, so there is nothing to report: `diffseg status {names}` tells how far it is"
        )
    every = pd.concat(last, ignore_index=True)
    if "config_data_held_out" in every:
        searched = (every["config_data_held_out"] > 0) & every["experiment"].isin(["e1", "e2"])
        every = every[~searched]
    trials = every[every["status"] == "complete"].copy()
    trials["variant"] = _named(trials, ledgers, _variants(trials))
    trials["series"] = _series(trials)
    return Tables(tuple(ledgers), trials, every[every["status"] == "failed"])


def _last(ledger: Ledger) -> pd.DataFrame:
    """Of each trial the row of its last attempt. The study is that of the store, which may have been renamed."""
    rows = ledger.read("trials").to_pandas().sort_values("attempt", kind="stable")
    return rows.drop_duplicates("trial", keep="last").sort_index().assign(study=ledger.study)


def records(frame: pd.DataFrame) -> list[dict]:
    """Rows as dictionaries, with None for what is missing or NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def front(losses: pd.DataFrame) -> list:
    """The index of the rows that no other row equals or beats in all columns and beats in one; less is better."""
    ordered, kept = losses.sort_values(list(losses), kind="stable"), []
    values = ordered.to_numpy()
    for place, row in enumerate(values):  # whoever beats it comes before it
        others = values[kept]
        if not ((others <= row).all(1) & (others < row).any(1)).any():
            kept.append(place)
    return list(ordered.index[kept])


def table1(tables: Tables) -> pd.DataFrame:
    """IoU (%) and ECE of E1 and E2 and their differences, a row for every study, data set, network and variant of E2.

    Columns: study, dataset, network, variant, images, then for each of e1 and e2 `iou`, `iou_sd`, `ece`, `ece_sd`, `seeds`, and
    `iou_difference`, `ece_difference` (E2 − E1). Means and sample standard deviations are over seeds; `comparison.against_e1`
    tests the differences.
    """
    segmented = tables.trials[tables.trials["experiment"].isin(["e1", "e2"])]
    if segmented.empty:
        return pd.DataFrame()
    means = _over_seeds(segmented, ["experiment", "study", "dataset", "network", "variant"])
    e1, e2 = (means[means["experiment"] == name].drop(columns="experiment") for name in ("e1", "e2"))
    rows = e1.merge(e2, on=["study", "dataset", "network"], how="outer", suffixes=("_e1", "_e2"))
    rows["images"] = rows["images_e1"].fillna(rows["images_e2"]).astype(int)
    rows["iou_difference"], rows["ece_difference"] = rows["iou_e2"] - rows["iou_e1"], rows["ece_e2"] - rows["ece_e1"]
    return rows.drop(columns=["images_e1", "images_e2"])


def studies(tables: Tables) -> pd.DataFrame:
    """The studies side by side: of each data set, experiment (E1 or E2) and network, every study's best variant by IoU.

    Columns: dataset, experiment, network, study, variant, trials, seeds, iou (%), iou_sd, ece, ece_sd (over seeds), hours,
    and iou_difference and ece_difference to the first study's, those of means; `comparison.against_first` tests them.
    """
    measured = tables.trials.dropna(subset=["iou"])
    key = ["dataset", "experiment", "network"]
    if measured.empty:
        return pd.DataFrame()
    means = _over_seeds(measured, ["study", *key, "variant"]).drop(columns="images")
    best = means.loc[means.groupby(["study", *key])["iou"].idxmax()]
    spent = measured.groupby(["study", *key]).agg(trials=("trial", "size"), hours=("seconds", "sum")).reset_index()
    best = best.merge(spent.assign(hours=spent["hours"] / 3600), on=["study", *key])
    first = best[best["study"] == tables.ledgers[0].study].set_index(key)[["iou", "ece"]]
    base = best[key].merge(first, left_on=key, right_index=True, how="left")
    best["iou_difference"], best["ece_difference"] = best["iou"] - base["iou"], best["ece"] - base["ece"]
    order = {ledger.study: place for place, ledger in enumerate(tables.ledgers)}
    return best.sort_values([*key, "study"], key=lambda column: column.map(order) if column.name == "study" else column)


def _over_seeds(trials: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Means and sample standard deviations of IoU (%) and ECE, and how many seeds and test images they are of."""
    group = trials.assign(iou=100 * trials["iou"]).groupby(key, sort=False)
    return group.agg(
        iou=("iou", "mean"),
        iou_sd=("iou", "std"),
        ece=("ece", "mean"),
        ece_sd=("ece", "std"),
        seeds=("seed", "nunique"),
        images=("test_images", "max"),
    ).reset_index()


def errors(tables: Tables, experiments: list[str], value: str, snapshot: str = "last") -> pd.DataFrame:
    """Mean, least and greatest `value` (mask_error or loss) over seeds at every t, of the "first" or the "last" snapshot.

    With the columns of GROUP and `step`, t in steps of 1000.
    """
    rows = tables.timesteps[tables.timesteps["experiment"].isin(experiments)].dropna(subset=[value])
    return over_t(rows, value, snapshot)


def over_t(rows: pd.DataFrame, value: str, snapshot: str = "last") -> pd.DataFrame:
    """The same of given rows of `timesteps`."""
    rows = snapshot_of(rows, snapshot)
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


def snapshot_of(rows: pd.DataFrame, snapshot: str = "last") -> pd.DataFrame:
    """The rows of `timesteps` of each trial's "first" or "last" snapshot."""
    chosen = rows.groupby(["study", "trial"])["step"].transform("min" if snapshot == "first" else "max")
    return rows[rows["step"] == chosen]


def half_maxima(curves: pd.DataFrame) -> pd.DataFrame:
    """Where each data set's mask error reaches half its greatest value: columns study, dataset, network, series, t, mean."""
    rows = []
    key = ["study", "dataset", "network", "series"]
    for names, curve in curves.groupby(key, sort=False):
        curve = curve.sort_values("t")
        half = curve["mean"].max() / 2
        above = int((curve["mean"].to_numpy() >= half).argmax())
        t = np.interp(
            half,
            curve["mean"].to_numpy()[max(0, above - 1) : above + 1],
            curve["t"].to_numpy()[max(0, above - 1) : above + 1],
        )
        rows.append({**dict(zip(key, names, strict=True)), "t": float(t), "mean": half})
    return pd.DataFrame(rows)


def agreements(curves: pd.DataFrame, tolerance: float = 0.1) -> pd.DataFrame:
    """Up to which t the mask errors of a network's E2 and E3 differ by less than the tolerance.

    Columns study, dataset, network, series, t (NaN where they differ from the start), and both errors at t = 1 (e2_end,
    e3_end).
    """
    rows = []
    for (study, dataset, network), curve in curves.groupby(["study", "dataset", "network"], sort=False):
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
                    "study": study,
                    "dataset": dataset,
                    "network": network,
                    "series": series,
                    "t": both[last - 1] if last else np.nan,
                    "e2_end": e2[both[-1]],
                    "e3_end": e3[both[-1]],
                }
            )
    return pd.DataFrame(rows)


def fingerprints(tables: Tables) -> pd.DataFrame:
    """E3's fingerprints of every kind, of the mean over seeds: errors over the noise levels, and what is made of them.

    Columns: those of GROUP, kind, t, log_snr, error, error_smooth, derivative (of the latter by −log-SNR) and weight (as a
    share of its greatest value).
    """
    columns = ["t", "log_snr", "error", "error_smooth", "derivative", "weight"]
    frames = [
        pd.DataFrame({column: getattr(found, column) for column in columns}).assign(kind=found.kind, **group)
        for group, found in measured_fingerprints(tables)
    ]
    return pd.concat(frames, ignore_index=True)[[*GROUP, "kind", *columns]] if frames else pd.DataFrame()


def measured_fingerprints(tables: Tables) -> list[tuple[dict, Fingerprint]]:
    """The same as objects, with the columns of GROUP of each."""
    rows = tables.timesteps[tables.timesteps["experiment"] == "e3"]
    found = []
    for key, group in rows.groupby(GROUP, sort=False):
        trials = [trial.to_dict("records") for _, trial in group.groupby("trial", sort=False)]
        for kind, error in ERRORS.items():
            if group[error].notna().all():  # earlier versions measured the squared error alone
                found.append((dict(zip(GROUP, key, strict=True)), compute_fingerprint(trials, kind)))
    return found


def _series(frame: pd.DataFrame) -> pd.Series:
    several = frame["network"].nunique() > 1
    network = ", " + frame["network"] if several else ""
    study = ", " + frame["study"] if frame["study"].nunique() > 1 else ""
    variant = frame["variant"].map(lambda text: f", {text}" if text else "")
    return frame["experiment"].map(NAMES) + network + variant + study


def _variants(trials: pd.DataFrame) -> pd.Series:
    """The varying settings of each trial among those of its experiment, data set and network, as words."""
    labels = pd.Series("", index=trials.index)
    for _, group in trials.groupby(["experiment", "dataset", "network"]):
        columns = varying(group)
        for index, row in group.iterrows():
            labels[index] = ", ".join(_value(column, row[column]) for column in columns if not pd.isna(row[column]))
    return labels


def _named(trials: pd.DataFrame, ledgers: list[Ledger], words: pd.Series) -> pd.Series:
    """The names of the variants of the studies that have any, with the words where the name alone says too little."""
    given = {ledger.study: (ledger.definition() or {}).get("variants") or {} for ledger in ledgers}
    labels = [given[study].get(trial, "") for study, trial in zip(trials["study"], trials["trial"], strict=True)]
    names = pd.Series(labels, index=trials.index, dtype=object)
    key = [trials[column] for column in ("study", "experiment", "dataset", "network")]
    alone = (names.groupby(key).transform("nunique") == 1) & (words == "")  # such as E3, which several variants need
    enough = words.groupby([*key, names]).transform("nunique") == 1
    return words.where((names == "") | alone, names.where(enough, names + ", " + words))


def varying(trials: pd.DataFrame) -> list[str]:
    """The columns of settings, other than what names a trial, in which trials differ."""
    columns = [
        c for c in trials.columns if c in BASELINES or (c.startswith("config_") and not c.startswith(NOT_A_CHOICE))
    ]
    return [c for c in columns if trials[c].astype(str).nunique() > 1]


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
