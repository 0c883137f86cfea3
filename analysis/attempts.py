"""The last attempts of a study's trials as a data frame, with the columns that earlier versions did not record filled in."""

import pandas as pd

from diffseg.errors import DefinitionError
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
    """Return the trials of the definition and of the proposals by their names; none if the definition is damaged."""
    try:
        study = stored_study(ledger.study, ledger.definition() or {})
        return {trial.name: trial for trial in study.known_trials(ledger)}
    except DefinitionError:
        return {}


def _derive_scored_on(rows: pd.DataFrame) -> pd.Series:
    """Return what `data.held_out` implies; "test" where it is not recorded, since versions without it had test images only."""
    if "config_data_held_out" not in rows:
        return pd.Series("test", rows.index)
    return (rows["config_data_held_out"].fillna(0) > 0).map({True: "held-out", False: "test"})


def _derive_roles(rows: pd.DataFrame, known: dict[str, Trial]) -> pd.Series:
    """Return each trial's role: that of the known trial, else "search" if it was scored on held-out images, else "trial"."""
    unknown = rows["scored_on"].map({"held-out": "search", "test": "trial"})
    roles = {name: trial.role for name, trial in known.items()}
    found = [roles.get(trial, other) for trial, other in zip(rows["trial"], unknown, strict=True)]
    return pd.Series(found, rows.index, dtype=object)
