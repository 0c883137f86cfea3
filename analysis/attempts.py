"""The last attempts of a study's trials as a data frame, with the columns that earlier versions did not record filled in."""

import pandas as pd

from diffseg.errors import ConfigError, DefinitionError
from studies.definition.study import stored_study
from studies.definition.trial import Trial
from studies.store.ledger import Ledger


def read_last_attempts(ledger: Ledger) -> pd.DataFrame:
    """Return the row in `trials` of each trial's last attempt.

    `study` is the name that the study has in the store now, which may have been changed. `log` is where the log lies now.
    `role` and `scored_on` follow from the study's definition and from the settings where the ledger does not say.
    """
    rows = ledger.read("trials").to_pandas().sort_values("attempt", kind="stable")
    rows = rows.drop_duplicates("trial", keep="last").sort_index().assign(study=ledger.study)
    rows["log"] = rows["trial"].map(ledger.log_path).where(rows["log"].notna(), None)
    known = _known_trials(ledger) if rows["role"].isna().any() else {}
    rows["scored_on"] = rows["scored_on"].fillna(_derive_scored_on(rows))
    rows["role"] = rows["role"].fillna(_derive_roles(rows, known))
    return rows


def _known_trials(ledger: Ledger) -> dict[str, Trial]:
    """Return the trials of the definition and of the proposals by their names; none if one of them cannot be read."""
    try:
        study = stored_study(ledger.study, ledger.definition() or {})
        return {trial.name: trial for trial in study.known_trials(ledger)}
    except (DefinitionError, ConfigError):
        return {}


def _derive_scored_on(rows: pd.DataFrame) -> pd.Series:
    """Return what `data.held_out` implies; "test" where it is not recorded, since versions without it had test images only."""
    if "config_data_held_out" not in rows:
        return pd.Series("test", rows.index)
    return (rows["config_data_held_out"].fillna(0) > 0).map({True: "held-out", False: "test"})


def _derive_roles(rows: pd.DataFrame, known: dict[str, Trial]) -> pd.Series:
    """Return each trial's role: that of the known trial; else, if it was scored on held-out images, what searches run.

    These are "fingerprint" for E3 and "search" for other experiments. The role is "trial" where nothing says otherwise.
    """
    found = []
    for trial, experiment, scored_on in zip(rows["trial"], rows["experiment"], rows["scored_on"], strict=True):
        searched = "fingerprint" if experiment == "e3" else "search"
        found.append(known[trial].role if trial in known else searched if scored_on == "held-out" else "trial")
    return pd.Series(found, rows.index, dtype=object)
