"""A study for other programs: a journal for optuna-dashboard, event files for TensorBoard."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.searches import Searched, searched
from analysis.tables import Tables, varying
from diffseg.errors import StoreError, UserError
from studies.search.proposals import EvaluatedProposal
from studies.search.sampling import find_parameters
from studies.store.tables import METRICS

SEGMENTED = ("iou", "ece")  # what trials outside of searches are shown by
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
}  # others have failed


def journal(tables: Tables, path: Path) -> optuna.storages.JournalStorage:
    """Optuna's studies of what was run, in a new file: one a search, and one of all else for each data set and experiment.

    Objectives are in their own units and directions. Each trial has its name, and in a search its source and what became of
    it, as user attributes. Raises UserError if the file cannot be written.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return _filled(tables, optuna.storages.JournalStorage(JournalFileBackend(str(path))))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises UserError in place of OSError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}): make room there, or copy the study to a store that can be"
        ) from None


def _filled(tables: Tables, storage: optuna.storages.JournalStorage) -> optuna.storages.JournalStorage:
    for one in searched(tables.ledgers):
        _study(
            storage,
            f"{one.ledger.study}: search, {one.title}",
            one.search.objective,
            [_tried(one, t) for t in one.tried],
        )
    measured = tables.trials.dropna(subset=list(SEGMENTED))
    for (study, dataset, experiment), group in measured.groupby(["study", "dataset", "experiment"], sort=False):
        _study(storage, f"{study}: {experiment}, {dataset}", SEGMENTED, _grid(group))
    return storage


def event_files(tables: Tables, folder: Path) -> int:
    """TensorBoard's files, a folder a trial: its learning curves, and its final metrics at its last step. How many trials."""
    from tensorboardX import SummaryWriter

    curves = tables.curves()
    for row in tables.trials.to_dict("records"):
        points = curves[(curves["study"] == row["study"]) & (curves["trial"] == row["trial"])]
        with _writing(folder), SummaryWriter(str(folder / row["study"] / row["trial"])) as writer:
            for step, metric, value in zip(points["step"], points["metric"], points["value"], strict=True):
                writer.add_scalar(metric, value, step)
            for metric in METRICS:
                if metric in row and not pd.isna(row[metric]):
                    last = row.get("config_training_steps")
                    writer.add_scalar(f"final/{metric}", row[metric], 0 if pd.isna(last) else int(last))
    return len(tables.trials)


def _study(storage, name: str, objective: tuple[str, ...], trials: list[FrozenTrial]) -> None:
    directions = ["maximize" if METRICS[metric] else "minimize" for metric in objective]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objective))
    study.add_trials(trials)


def _tried(one: Searched, tried: EvaluatedProposal) -> FrozenTrial:
    proposal, objective = tried.proposal, one.search.objective
    found = find_parameters(one.search, one.start, proposal)  # none of what the space itself could not propose
    signs = [-1 if METRICS[metric] else 1 for metric in objective]
    told = {"trial": proposal.trial or "", "source": proposal.source, "status": tried.status}
    if proposal.reason:
        told["reason"] = proposal.reason
    if found is None:
        told["settings"] = json.dumps(proposal.settings)
    return create_trial(
        state=STATES.get(tried.status, TrialState.FAIL) if not tried.infeasible else TrialState.FAIL,
        values=[sign * loss for sign, loss in zip(signs, tried.losses, strict=True)] if tried.losses else None,
        params=found.values if found else {},
        distributions=found.distributions if found else {},
        intermediate_values={step: signs[0] * loss for step, loss in tried.rungs},
        user_attrs=told,
    )


def _grid(trials: pd.DataFrame) -> list[FrozenTrial]:
    columns = ["network", "seed", *varying(trials)]
    texts = trials[columns].astype(str)
    choices = {column: CategoricalDistribution(sorted(texts[column].unique())) for column in columns}
    names = {column: column.removeprefix("config_") for column in columns}
    return [
        create_trial(
            values=[row[metric] for metric in SEGMENTED],
            params={names[column]: texts.loc[index, column] for column in columns},
            distributions={names[column]: choices[column] for column in columns},
            user_attrs={"trial": row["trial"]},
        )
        for index, row in trials.iterrows()
    ]
