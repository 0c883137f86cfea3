"""Curves over the noise levels: means over seeds, agreement of E2 with E3, fingerprints, and where half of a mask is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.frames import GROUP
from diffseg.fingerprint.classes import compute_fingerprints
from diffseg.fingerprint.curve import ERRORS, Fingerprint, compute_fingerprint

if TYPE_CHECKING:
    from analysis.tables import Tables


def errors_over_t(tables: Tables, experiments: list[str], value: str, snapshot: str = "last") -> pd.DataFrame:
    """Return `average_over_seeds` of the experiments' trials that have measured the value, mask_error or loss."""
    rows = tables.timesteps[tables.timesteps["experiment"].isin(experiments)].dropna(subset=[value])
    return average_over_seeds(rows, value, snapshot)


def average_over_seeds(
    rows: pd.DataFrame, value: str, snapshot: str = "last", by: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return the mean, least and greatest value over seeds at every t, of the "first" or the "last" snapshot.

    rows: of Tables.timesteps. by: further columns in which curves differ. Columns: those of GROUP and of `by`, t, mean, low,
    high, log_snr, seeds, share (of training), and step, t in steps of 1000.
    """
    rows = select_snapshot(rows, snapshot)
    group = rows.groupby([*GROUP, *by, "t"], sort=False)
    found = group.agg(
        mean=(value, "mean"),
        low=(value, "min"),
        high=(value, "max"),
        log_snr=("log_snr", "mean"),
        seeds=("seed", "nunique"),
        share=("share", "max"),
    ).reset_index()
    return found.assign(step=(1000 * found["t"]).round())


def select_snapshot(rows: pd.DataFrame, snapshot: str = "last") -> pd.DataFrame:
    """Return the rows of each trial's "first" or "last" snapshot."""
    chosen = rows.groupby(["study", "trial"])["step"].transform("min" if snapshot == "first" else "max")
    return rows[rows["step"] == chosen]


def epsilon_rows(tables: Tables) -> pd.DataFrame:
    """Return the rows of Tables.timesteps whose loss is the squared error of ε: of E2 with the ε-target, and of E4."""
    trials = tables.trials[tables.trials["experiment"].isin(["e2", "e4"])]
    epsilon = trials.loc[trials["config_diffusion_target"] == "epsilon", ["study", "trial"]]
    return tables.timesteps.merge(epsilon, on=["study", "trial"]).dropna(subset=["loss"])


def find_agreement(curves: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Return up to which t the mask errors of a network's E2 and E3 differ by less than the tolerance.

    The tolerance is a share of E3's greatest error, the same at every t: where both errors are near 0, their ratio says nothing.

    Columns: study, dataset, network, series, t (NaN where they differ from the first level on), and both errors at the
    greatest t (e2_end, e3_end).
    """
    rows = []
    for (study, dataset, network), curve in curves.groupby(["study", "dataset", "network"], sort=False):
        e3 = curve[curve["experiment"] == "e3"].groupby("t")["mean"].mean()
        for series, e2 in curve[curve["experiment"] == "e2"].groupby("series", sort=False):
            e2 = e2.set_index("t")["mean"]
            both = e3.index.intersection(e2.index).sort_values()
            if both.empty:
                continue
            near = ((e2[both] - e3[both]).abs() < tolerance * e3.max()).to_numpy()
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


def fit_fingerprints(timesteps: pd.DataFrame) -> list[tuple[dict[str, Any], Fingerprint]]:
    """Return E3's fingerprints of every kind, each of the mean over seeds, with the columns of GROUP.

    timesteps: Tables.timesteps. Earlier versions measured the squared error alone: their trials have one kind.
    """
    rows = timesteps[timesteps["experiment"] == "e3"]
    found = []
    for key, group in rows.groupby(GROUP, sort=False):
        trials = [trial.to_dict("records") for _, trial in group.groupby("trial", sort=False)]
        for kind, error in ERRORS.items():
            if group[error].notna().all():
                found.append((dict(zip(GROUP, key, strict=True)), compute_fingerprint(trials, kind)))
    return found


def find_half_losses(fingerprints: list[tuple[dict[str, Any], Fingerprint]]) -> pd.DataFrame:
    """Return where half of a mask is lost without the image: the fingerprint's own half (`Fingerprint.find_level`).

    Columns: those of GROUP, log_snr, t (NaN beyond the schedule) and error (of the smooth curve, there). Fingerprints of errors
    that do not rise with the noise have no row.
    """
    rows = []
    for group, one in fingerprints:
        if one.kind == "mask-error" and one.weight.any():
            found = one.summary()
            error = (one.error_smooth[0] + one.limit) / 2
            rows.append(group | {"log_snr": found["half"], "t": found["half_t"], "error": error})
    return pd.DataFrame(rows, columns=[*GROUP, "log_snr", "t", "error"])


def fit_class_fingerprints(timesteps: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, Fingerprint]]]:
    """Return E3's fingerprints of the mask error by class, each of the mean over seeds, with the columns of GROUP.

    timesteps: Tables.class_timesteps.
    """
    found = []
    for key, group in timesteps[timesteps["experiment"] == "e3"].groupby(GROUP, sort=False):
        trials = [trial.to_dict("records") for _, trial in group.groupby("trial", sort=False)]
        names = list(group["class"].unique())
        found.append((dict(zip(GROUP, key, strict=True)), compute_fingerprints(trials, "mask-error", names)))
    return found


def tabulate_fingerprints(fingerprints: list[tuple[dict[str, Any], Fingerprint]]) -> pd.DataFrame:
    """Return a row for each fingerprint and noise level.

    Columns: those of GROUP, kind, t, log_snr, error, error_smooth, derivative (of the latter by −log-SNR) and weight (as a
    share of its greatest value).
    """
    columns = ["t", "log_snr", "error", "error_smooth", "derivative", "weight"]
    frames = [
        pd.DataFrame({column: getattr(one, column) for column in columns}).assign(kind=one.kind, **group)
        for group, one in fingerprints
    ]
    return pd.concat(frames, ignore_index=True)[[*GROUP, "kind", *columns]] if frames else pd.DataFrame()
