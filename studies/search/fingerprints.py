"""The fingerprint of a data set: measured by E3 trials in a study of their own, or estimated without training."""

from collections.abc import Callable
from itertools import count
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.fingerprint.classes import compute_fingerprints, describe_order, summarise
from diffseg.fingerprint.curve import Fingerprint
from diffseg.labels.classes import Classes
from diffseg.suggestions import did_you_mean
from studies.definition.reading import read_study
from studies.definition.shipped import data_settings, shipped_data_sets
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.planning.datasets import check_datasets
from studies.store.ledger import Ledger
from studies.store.places import cache_folder, fetch_root

SOURCE = "paper-small"  # the shipped study whose sizes and training are used
E3_STEPS = 2400
TIMESTEP_IMAGES = 256  # with 64 of ISIC16's 161 held-out masks, the error at much noise was 8 % too low


def build_weighted(dataset: str, roots: dict[str, str], settings: dict[str, Any]) -> Config:
    """Build an E2 trial of a data set that is weighted by its fingerprint. Its E3 trials are those to measure.

    Args:
        roots: Of data sets, by name. Synthetic ones need none.
        settings: Of E3: those of any such trial, and diffusion.fingerprint, fingerprint_seeds, fingerprint_networks and
            fingerprint_steps.

    Raises:
        UserError: The data set has no root, or the settings take the fingerprint away.
    """
    implied = {} if dataset in roots else data_settings(dataset) | settings
    if implied and implied["data.layout"] != "synthetic":
        hint = did_you_mean(dataset, ({*shipped_data_sets()} | {*roots}) - {dataset})
        raise UserError(f"data set {dataset} has no root{hint}: give --data {dataset}=ROOT")
    own = implied | {
        "diffusion.weighting": "fingerprint",
        "diffusion.fingerprint_steps": E3_STEPS,
        "inference.timestep_images": TIMESTEP_IMAGES,
        "training.snapshots": [1.0],  # a fingerprint uses the network at its end alone
    }
    study = read_study(SOURCE, {dataset: roots.get(dataset, "")}, own | settings, experiments=("e2",))
    found = [trial.config for trial in study.trials if trial.config.fingerprint_trials()]
    if not found:
        raise UserError(
            "with these settings no trial is weighted by a fingerprint: leave out experiment and diffusion.weighting, which "
            "are settings of E2"
        )
    return found[0]


def build_study(config: Config, roots: dict[str, str], command: str) -> Study:
    """Build the study of the E3 trials whose fingerprint weighs a trial."""
    trials = tuple(Trial(trial_name(e3), e3, role="fingerprint") for e3 in config.fingerprint_trials())
    return Study(f"fingerprint-{config.data.name}", trials, roots, command=command)


def list_classes(config: Config) -> tuple[str, ...]:
    """Return the class whose fingerprint weighs a trial; if that is their mean, "all", and then each of several classes."""
    chosen = config.diffusion.fingerprint_class
    return (chosen,) if chosen else Classes.of(config.data).rows


def read_fingerprints(config: Config, ledger: Ledger) -> dict[str, Fingerprint] | None:
    """Read from a ledger the fingerprints of `list_classes`, the first of which weighs a trial.

    Returns None unless all of the trial's E3 trials are complete. Their names depend on the classes of the masks, so that
    trials of other classes are not taken for them.
    """
    names = [trial_name(e3) for e3 in config.fingerprint_trials()]
    complete = {row["trial"]: row["attempt"] for row in ledger.last_rows(["status"]) if row["status"] == "complete"}
    if not set(names) <= complete.keys():
        return None
    rows = ledger.read("timesteps").to_pylist()
    by_trial = [[row for row in rows if (row["trial"], row["attempt"]) == (name, complete[name])] for name in names]
    return compute_fingerprints(by_trial, config.diffusion.fingerprint, list_classes(config))


def estimate_fingerprints(
    config: Config, root: str | None, store: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Fingerprint]:
    """Estimate the fingerprints of `list_classes`, the first of which weighs a trial, without training.

    Args:
        root: Of the data set; None: synthetic.
        store: Its cache is used.
        on_progress: Called with the number of images that are read and of all, then with that of estimates.

    Raises:
        UserError: The kind of fingerprint needs training, or the data cannot be used.
    """
    from diffseg import data
    from diffseg.fingerprint.quick import ROUNDS, estimate_mask_error

    if config.diffusion.fingerprint not in ("mask-error", "entropy-rate"):
        raise UserError(
            f"diffusion.fingerprint is {config.diffusion.fingerprint}, but without training only the squared error is known: "
            "take mask-error or entropy-rate, or leave out --quick"
        )
    e3 = config.fingerprint_trials()[0]
    check_datasets([Trial(trial_name(e3), e3)], {e3.data.name: root} if root else {}, store)
    dataset = data.load(e3.data, fetch_root(root) if root else None, cache_folder(store), on_progress=on_progress)
    on_progress(0, ROUNDS)
    estimates = count()
    errors = estimate_mask_error(dataset, e3, lambda: on_progress(next(estimates), ROUNDS))
    return compute_fingerprints([errors], config.diffusion.fingerprint, list_classes(config))


def describe_source(config: Config, measured: bool) -> str:
    """Say how the fingerprint that weighs a trial was found, and of which class it is if there are several."""
    of_class, *others = list_classes(config)
    words = "measured by E3" if measured else "estimated without training"
    if others:
        return f"{words}, the mean over the classes"
    return words if of_class == "all" else f"{words}, of the class {of_class}"


def to_dict(found: dict[str, Fingerprint]) -> dict[str, Any]:
    """Convert the fingerprints of `list_classes` to plain values for JSON: the first one, and in `classes` the others.

    Raises UserError if the first one's error does not rise with the noise.
    """
    (name, first), *others = found.items()
    first.knots()
    values = {"class": name, **_to_dict(first)}
    if others:
        values |= {"order": describe_order(found), "classes": {name: _to_dict(one) for name, one in others}}
    return values


def _to_dict(found: Fingerprint) -> dict[str, Any]:
    columns = ("t", "log_snr", "error", "error_smooth", "derivative", "derivative_t", "weight")
    return summarise(found) | {column: getattr(found, column).tolist() for column in columns}
