"""Exports of a study to other programs: a journal for optuna-dashboard, and event files for TensorBoard."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.searches import SearchHistory
from analysis.series import varying_columns
from analysis.tables import Tables
from analysis.writing import refuse_unwritable
from diffseg.evaluation.registry import METRICS
from studies.search.history import EvaluatedProposal
from studies.search.sampling import Sampler

OBJECTIVE = ("iou", "ece")  # of trials outside of searches
STATES = {  # any other status is a failure
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
}


def write_journal(tables: Tables, path: Path) -> optuna.storages.JournalStorage:
    """Write Optuna's studies of the trials to a new file: one for each search, and one for each other data set and experiment.

    Objectives keep their own units and directions. Each trial has its name as a user attribute, and in a search its source
    and its status. Raises UserError if the file cannot be written.
    """
    with refuse_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        for search in tables.searches:
            sampler = Sampler(search.search, search.name, search.start)
            trials = [_searched_trial(search, sampler, tried) for tried in search.tried]
            _add_study(storage, f"{search.ledger.study}: search, {search.title}", search.search.objective, trials)
        measured = tables.trials.dropna(subset=list(OBJECTIVE))
        for (study, dataset, experiment), group in measured.groupby(["study", "dataset", "experiment"], sort=False):
            _add_study(storage, f"{study}: {experiment}, {dataset}", OBJECTIVE, _other_trials(group))
        return storage


def write_event_files(tables: Tables, folder: Path) -> int:
    """Write TensorBoard's event files, a folder for each trial; return the number of trials.

    They contain the learning curves, and the final metrics at the last step.
    """
    from tensorboardX import SummaryWriter

    curves = tables.curves()
    for row in tables.trials.to_dict("records"):
        points = curves[(curves["study"] == row["study"]) & (curves["trial"] == row["trial"])]
        with refuse_unwritable(folder), SummaryWriter(str(folder / row["study"] / row["trial"])) as writer:
            for step, metric, value in zip(points["step"], points["metric"], points["value"], strict=True):
                writer.add_scalar(metric, value, step)
            for metric in METRICS:
                if metric in row and not pd.isna(row[metric]):
                    last = row.get("config_training_steps")
                    writer.add_scalar(f"final/{metric}", row[metric], 0 if pd.isna(last) else int(last))
    return len(tables.trials)


def _add_study(
    storage: optuna.storages.JournalStorage, name: str, objective: Sequence[str], trials: list[FrozenTrial]
) -> None:
    """Add an Optuna study with its trials to the storage."""
    best = (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE)
    directions = [best[bool(METRICS[metric].larger_is_better)] for metric in objective]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objective))
    study.add_trials(trials)


def _searched_trial(search: SearchHistory, sampler: Sampler, tried: EvaluatedProposal) -> FrozenTrial:
    """Return a proposal as an Optuna trial, without parameters if the search space could not have proposed it."""
    proposal = tried.proposal
    found = sampler.find_parameters(proposal)
    units = [METRICS[metric].loss for metric in search.search.objective]  # turns a loss back into the metric, too
    attributes = {"trial": proposal.trial or "", "source": proposal.source, "status": tried.status}
    if proposal.reason:
        attributes["reason"] = proposal.reason
    if found is None:
        attributes["settings"] = json.dumps(proposal.settings)
    return create_trial(
        state=STATES.get(tried.status, TrialState.FAIL) if not tried.infeasible else TrialState.FAIL,
        values=[value(loss) for value, loss in zip(units, tried.losses, strict=True)] if tried.losses else None,
        params=found.values if found else {},
        distributions=found.distributions if found else {},
        intermediate_values={step: units[0](loss) for step, loss in tried.rungs},
        user_attrs=attributes,
    )


def _other_trials(trials: pd.DataFrame) -> list[FrozenTrial]:
    """Return trials outside of searches as Optuna trials; the settings in which they differ are categories."""
    columns = ["network", "seed", *varying_columns(trials)]
    texts = trials[columns].astype(str)
    choices = {column: CategoricalDistribution(sorted(texts[column].unique())) for column in columns}
    names = {column: column.removeprefix("config_") for column in columns}
    return [
        create_trial(
            values=[row[metric] for metric in OBJECTIVE],
            params={names[column]: texts.loc[index, column] for column in columns},
            distributions={names[column]: choices[column] for column in columns},
            user_attrs={"trial": row["trial"]},
        )
        for index, row in trials.iterrows()
    ]
