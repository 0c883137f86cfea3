"""What `diffseg fingerprint` and `diffseg recommend` do: find the E3 trials, or do without them, and draw conclusions."""

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.fingerprint.curve import Fingerprint, fingerprint
from studies.definition.reading import read_study
from studies.definition.shipped import data_settings
from studies.definition.study import Study
from studies.definition.trial import Trial, trial_name
from studies.planning.datasets import examine
from studies.store.ledger import Ledger
from studies.store.places import cache_folder, fetch_root

SOURCE = "paper-small"  # the shipped study whose sizes and training are used
E3_STEPS = 2400
TIMESTEP_IMAGES = 256  # with 64 of ISIC16's 161 held-out masks, the error at much noise was 8 % too low
UNIFORM = 0.2  # share of the training timesteps that a recommendation leaves uniform
DECIDED = 0.1  # share of the mask error that one step of sampling may decide at most
BEYOND = (
    3.0  # log-SNR below the level of 95 % loss at which 1 − 0.05 e^−3 = 99.8 % is lost: the error falls short by e^λ
)


def weighted(dataset: str, roots: dict[str, str], settings: dict[str, Any]) -> Config:
    """The E2 trial of a data set that is weighted by its fingerprint, whose E3 trials are those to measure.

    Settings of E3 are those of any such trial: diffusion.fingerprint, fingerprint_seeds, fingerprint_networks and
    fingerprint_steps. Synthetic data sets need no root. Raises UserError if another has none.
    """
    drawn = {} if dataset in roots else data_settings(dataset) | settings
    if drawn and drawn["data.layout"] != "synthetic":
        raise UserError(f"data set {dataset} has no root: give --data {dataset}=ROOT")
    own = drawn | {
        "diffusion.weighting": "fingerprint",
        "diffusion.fingerprint_steps": E3_STEPS,
        "inference.timestep_images": TIMESTEP_IMAGES,
        "training.snapshots": [1.0],  # what the network knew before its end has no part in a fingerprint
    }
    study = read_study(SOURCE, {dataset: roots.get(dataset, "")}, own | settings, experiments=("e2",))
    found = [trial.config for trial in study.trials if trial.config.fingerprint_trials()]
    if not found:
        raise UserError(
            "with these settings no trial is weighted by a fingerprint: leave out experiment and diffusion.weighting, since it "
            "is of E2 that they are settings"
        )
    return found[0]


def study_of(config: Config, roots: dict[str, str], command: str) -> Study:
    """The study of its own that the E3 trials of a weighted trial are."""
    trials = tuple(Trial(trial_name(e3), e3) for e3 in config.fingerprint_trials())
    return Study(f"fingerprint-{config.data.name}", trials, roots, command=command)


def measured(config: Config, ledger: Ledger) -> Fingerprint | None:
    """The fingerprint of the E3 trials in a ledger; None unless all of them are complete."""
    names = [trial_name(e3) for e3 in config.fingerprint_trials()]
    complete = {row["trial"]: row["attempt"] for row in ledger.last_rows(["status"]) if row["status"] == "complete"}
    if not set(names) <= complete.keys():
        return None
    rows = ledger.read("timesteps").to_pylist()
    of = [[row for row in rows if (row["trial"], row["attempt"]) == (name, complete[name])] for name in names]
    return fingerprint(of, config.diffusion.fingerprint)


def quick(config: Config, root: str | None, store: str) -> Fingerprint:
    """An estimate without training. root: None of synthetic data.

    Raises UserError for the kinds that it has no error of, and for data that cannot be used.
    """
    from diffseg import data
    from diffseg.fingerprint.quick import errors_without_training

    if config.diffusion.fingerprint not in ("mask-error", "entropy-rate"):
        raise UserError(
            f"diffusion.fingerprint is {config.diffusion.fingerprint}, but without training only the squared error is known: "
            "take mask-error or entropy-rate, or leave out --quick"
        )
    e3 = config.fingerprint_trials()[0]
    examine([Trial(trial_name(e3), e3)], {e3.data.name: root} if root else {}, store)
    dataset = data.load(e3.data, root and fetch_root(root), cache_folder(store))
    return fingerprint([errors_without_training(dataset, e3)], config.diffusion.fingerprint)


@dataclass(frozen=True)
class Choice:
    """Settings and, in a line, what in the curve speaks for them."""

    settings: dict[str, Any]
    reason: str


def recommendation(found: Fingerprint) -> list[Choice]:
    """Schedule, final log-SNR, target, density, weighting and sampling steps that suit a fingerprint."""
    summary = found.summary()
    half, kept, lost = summary["half"], summary["kept"], summary["lost"]
    schedule = {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": float(f"{math.exp(half / 2):.2g}"),
    }
    end = {"diffusion.log_snr_min": float(round(lost - BEYOND))}
    knots = [[round(level, 3), round(weight, 4)] for level, weight in found.knots()]
    steps = _steps(found, {**schedule, **end})
    return [
        Choice(schedule, f"t = 0.5 lies where half of the mask is lost, at log-SNR {half:.1f} = 2 ln b"),
        Choice(end, f"95 % is lost at log-SNR {lost:.1f}; {BEYOND:g} below nothing is left, as where sampling starts"),
        Choice(
            {"diffusion.target": "x0", "diffusion.activation": "tanh"},
            f"where half is lost, an error in ε is {math.exp(-half / 2):.0f} times as large in x0",
        ),
        Choice(
            {"diffusion.density": "profile", "diffusion.profile": knots, "diffusion.mixing": UNIFORM},
            f"the derivative as density: {1 - UNIFORM:.0%} of training where the mask is decided, mostly at log-SNR {lost:.1f} to "
            f"{kept:.1f}",
        ),
        Choice({"diffusion.weighting": "uniform"}, "on x0's error, since the density carries the curve already"),
        Choice(
            {"inference.steps": steps}, f"so that no step of sampling decides more than {DECIDED:.0%} of the mask error"
        ),
    ]


def _steps(found: Fingerprint, settings: dict[str, Any]) -> int:
    """The least number of equal steps of t, each deciding at most DECIDED of the error's range."""
    import torch

    from diffseg.diffusion.schedules import log_snr

    diffusion = Config().with_leaves(settings).diffusion
    for steps in range(1, 1000):
        levels = log_snr(torch.linspace(0, 1, steps + 1, dtype=torch.float64), diffusion).tolist()
        shares = [found.share(level) for level in levels]
        if max(b - a for a, b in itertools.pairwise(shares)) <= DECIDED:
            return steps
    return 1000


def study_file(config: Config, choices: list[Choice], source: str) -> str:
    """A study of E2 with the recommended settings, as TOML; source says where the fingerprint comes from."""
    plain = config.model_dump(mode="json")
    chosen = {key for choice in choices for key in choice.settings}
    kept = {key: value for key, value in config.leaves().items() if key not in chosen and value is not None}
    base = Config().with_leaves({"network": config.network.name}).leaves()
    differing = {key: value for key, value in kept.items() if value != base[key] or key == "data.layout"}
    sections: dict[str, dict] = {"all": {}, "network": {}, "data": {}}
    for key, value in differing.items():
        if key.startswith("diffusion.") or key in ("experiment", "seed", "data.name"):
            continue  # what the fingerprint decides, and what a study's file says elsewhere
        section = key.partition(".")[0]
        sections[section if section in sections else "all"][key] = value
    lines = [
        f"# E2 on {config.data.name} as its fingerprint suggests ({source}): nothing was searched or compared.",
        f"seeds = [{config.seed}]",
        'experiments = ["e2"]',
        "",
        "[all]",
        *(_line(key, value) for key, value in sections["all"].items()),
    ]
    told = {f"diffusion.{key}": plain["diffusion"][key] for key in ("steps", "time", "coding")}
    lines += [_line(key, value) for key, value in told.items() if value != base[key]]
    for choice in choices:
        lines += ["", f"# {choice.reason}", *(_line(key, value) for key, value in choice.settings.items())]
    for table, name in (("network", config.network.name), ("data", config.data.name)):
        lines += ["", f'[{table}."{name}"]', *(_line(key, value) for key, value in sections[table].items())]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value)}"


def table(found: Fingerprint):
    """The sentences, and every other noise level's numbers."""
    from rich.console import Group
    from rich.table import Table

    columns = ("t", "log_snr", "error", "error_smooth", "derivative", "weight")
    rows = Table("t", "log-SNR", "error", "smooth", "derivative", "weight", box=None, pad_edge=False)
    for values in list(zip(*(getattr(found, column) for column in columns), strict=True))[1::2]:
        rows.add_row(*(f"{value:.{digits}f}" for value, digits in zip(values, (2, 1, 3, 3, 3, 2), strict=True)))
    return Group(*found.words(), rows)


def to_dict(found: Fingerprint) -> dict:
    columns = ("t", "log_snr", "error", "error_smooth", "derivative", "derivative_t", "weight")
    return found.summary() | {"words": found.words()} | {column: getattr(found, column).tolist() for column in columns}
