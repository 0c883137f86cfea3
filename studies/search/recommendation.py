"""Settings that a fingerprint recommends, without any search, and the study file that holds them."""

import json
import math
from dataclasses import dataclass
from typing import Any

from diffseg.config import Config
from diffseg.fingerprint.curve import Fingerprint

UNIFORM = 0.2  # share of the training timesteps that a recommendation leaves uniform
SAMPLING_STEPS = 5  # as good as 10 and 20 on ISIC16 and LIDC-IDRI; more are worse (studies/RESULTS.md)
BEYOND = (
    3.0  # log-SNR below the level of 95 % loss at which 1 − 0.05 e^−3 = 99.8 % is lost: the error falls short by e^λ
)


@dataclass(frozen=True)
class Choice:
    """Recommended settings, and the reason that the fingerprint gives for them."""

    settings: dict[str, Any]
    reason: str


USUAL: dict[str, Any] = {  # the design that the project's own studies start from
    "diffusion.schedule": "cosine",
    "diffusion.input_scale": 0.1,
    "diffusion.target": "x0",
    "diffusion.activation": "tanh",
    "diffusion.weighting": "uniform",
    "inference.steps": SAMPLING_STEPS,
}


def recommend(found: Fingerprint) -> list[Choice]:
    """Choose the schedule, final log-SNR, target, density and weighting that suit a fingerprint, and the sampling steps.

    The final log-SNR is one at which no large mask shows through the noise, whatever the fingerprint says.
    """
    from diffseg.diffusion.combinations import VISIBLE  # imports torch, which takes long

    summary = found.summary()
    half, kept, lost = summary["half"], summary["kept"], summary["lost"]
    schedule = {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": float(f"{math.exp(half / 2):.2g}"),
    }
    end = float(min(round(lost - BEYOND), VISIBLE))
    at_end = f"{BEYOND:g} below" if end < VISIBLE else f"at {VISIBLE:g}"
    ratio = math.exp(-half / 2)
    of_x0 = f"{ratio:.0f} times as large" if ratio >= 2 else "no smaller"
    knots = [[round(level, 3), round(weight, 4)] for level, weight in found.knots()]
    return [
        Choice(schedule, f"t = 0.5 lies where half of the mask is lost, at log-SNR {half:.1f} = 2 ln b"),
        Choice(
            {"diffusion.log_snr_min": end},
            f"95 % is lost at log-SNR {lost:.1f}; {at_end} nothing is left, even of large masks, as where sampling starts",
        ),
        Choice(
            {"diffusion.target": "x0", "diffusion.activation": "tanh"},
            f"where half is lost, an error in ε is {of_x0} in x0",
        ),
        Choice(
            {"diffusion.density": "profile", "diffusion.profile": knots, "diffusion.mixing": UNIFORM},
            f"the derivative as density: {1 - UNIFORM:.0%} of training where the mask is decided, mostly at log-SNR {lost:.1f} to "
            f"{kept:.1f}",
        ),
        Choice({"diffusion.weighting": "uniform"}, "on x0's error, since the density carries the curve already"),
        Choice({"inference.steps": SAMPLING_STEPS}, "with x0, more are no better and cost more (studies/RESULTS.md)"),
    ]


def format_study(config: Config, choices: list[Choice], source: str) -> str:
    """Write a study of E2 with the recommended settings, as TOML.

    Args:
        config: The trial whose other settings are kept.
        source: Where the fingerprint comes from, in words.
    """
    base = Config().with_leaves({"network": config.network.name}).leaves()
    sections = _kept_settings(config, choices, base)
    lines = [
        f"# E2 on {config.data.name} as its fingerprint suggests ({source}): nothing was searched or compared.",
        f"seeds = [{config.seed}]",
        'experiments = ["e2"]',
        "",
        "[all]",
        *(_line(key, value) for key, value in sections["all"].items()),
    ]
    plain = config.model_dump(mode="json")["diffusion"]
    measured = {f"diffusion.{key}": plain[key] for key in ("steps", "time", "coding", "distance_limit")}
    lines += [_line(key, value) for key, value in measured.items() if value != base[key]]
    for choice in choices:
        lines += ["", f"# {choice.reason}", *(_line(key, value) for key, value in choice.settings.items())]
    for table, name in (("network", config.network.name), ("data", config.data.name)):
        lines += ["", f'[{table}."{name}"]', *(_line(key, value) for key, value in sections[table].items())]
    return "\n".join(lines) + "\n"


def _kept_settings(config: Config, choices: list[Choice], base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a trial that differ from the defaults, by the table of a study file that holds them.

    Left out are the settings of `diffusion`, which the fingerprint decides, and what a study file says elsewhere.

    Args:
        base: The defaults, by their paths.
    """
    chosen = {key for choice in choices for key in choice.settings} | {"experiment", "seed", "data.name"}
    sections: dict[str, dict[str, Any]] = {"all": {}, "network": {}, "data": {}}
    for key, value in config.leaves().items():
        if key in chosen or key.startswith("diffusion.") or value is None:
            continue
        if value != base[key] or key == "data.layout":
            section = key.partition(".")[0]
            sections[section if section in sections else "all"][key] = value
    return sections


def _line(key: str, value: Any) -> str:
    """Return a setting as a line of TOML, whose values are written as JSON's but for tables."""
    if isinstance(value, dict):
        pairs = (f"{_json(name)} = {_json(own[0] if len(own) == 1 else own)}" for name, own in value.items())
        return f"{key} = {{ {', '.join(pairs)} }}"
    return f"{key} = {_json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
