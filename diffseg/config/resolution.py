"""Resolution: fixed settings are set, unused ones are at their defaults, and None gives way to the value that it means.

Two configurations that differ only in settings that do not matter to their experiment become one trial.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

from diffseg.config.diffusion import Diffusion
from diffseg.config.experiments import FIXED, IGNORED, covers
from diffseg.config.head import USERS as HEAD_USERS
from diffseg.config.head import Head
from diffseg.config.inference import USERS, X0_STEPS, Inference, Risk
from diffseg.section import Section, unused

if TYPE_CHECKING:
    from diffseg.config.trial import Config

S = TypeVar("S", bound=Section)


def resolve(config: Config) -> Config:
    """Return the configuration with what its experiment fixes set, and what it does not use at its default."""
    inference = _resolve_inference(config)
    changes = {
        "data": _apply(config, "data", config.data),
        "diffusion": _resolve_diffusion(config),
        "head": _resolve_head(config),
        "training": _apply(config, "training", config.training),
        "inference": inference,
    }
    return config.model_copy(update=changes | ({"seed": inference.seeds[0]} if inference.seeds else {}))


def _apply(config: Config, name: str, section: S, unused: Collection[str] = (), **changes: Any) -> S:
    """Return a section of the configuration as its experiment and its network use it.

    Settings that the experiment fixes are set. Settings that the experiment or the network ignores, and those in
    `unused`, are at their defaults. changes: new values of other settings.
    """
    ignored = (*IGNORED[config.experiment], *config.network.ignored, *(f"{name}.{key}" for key in unused))
    values = {f"{name}.{key}": getattr(section, key) for key in type(section).model_fields}
    values |= {path: value for path, value in FIXED[config.experiment].items() if path in values}
    values |= {f"{name}.{key}": value for key, value in changes.items()}
    kept = {path.removeprefix(f"{name}."): value for path, value in values.items() if not covers(ignored, path)}
    return type(section)(**kept)


def _resolve_diffusion(config: Config) -> Diffusion:
    own = config.diffusion
    changes: dict[str, Any] = {"fingerprint_steps": own.fingerprint_steps or config.training.steps}
    if own.fingerprint_networks == (config.network.name,):
        changes["fingerprint_networks"] = ()
    if len(config.data.class_names) == 1:
        changes["fingerprint_class"] = None  # the only class is the mean over the classes
    if own.coding == "bits" and len(config.data.class_names) < 2:
        changes["coding"] = "pm1"  # the one digit of a binary mask
    return _apply(config, "diffusion", own, **changes).resolved()


def _resolve_head(config: Config) -> Head:
    return _apply(config, "head", config.head, unused(config.head, HEAD_USERS))


def _resolve_inference(config: Config) -> Inference:
    own, changes = config.inference, dict[str, Any]()
    if config.experiment == "e2":
        changes["steps"] = own.steps or usual_steps(config.diffusion)
    if own.risk.metric == "none":
        changes["risk"] = Risk()
    else:
        changes["threshold"] = 0.5  # of single samples; that of the ensemble is chosen
    without_use = unused(own, USERS) | (set() if config.training.evaluations else {"evaluation_images"})
    if len(config.data.class_names) > 1 and not config.data.regions:
        without_use.add("threshold")  # a pixel belongs to the most probable class
    resolved = _apply(config, "inference", own, without_use, **changes)
    random = resolved.augment != "none" or resolved.dropout or _resolve_head(config).kind != "none"
    if config.network.deterministic and not random:
        return resolved.model_copy(update={"ensemble": 1})  # all members would be the same
    return resolved


def usual_steps(diffusion: Diffusion) -> int:
    """Return the sampling steps that the target was measured to need."""
    return min(X0_STEPS, diffusion.steps) if diffusion.target == "x0" else diffusion.steps
