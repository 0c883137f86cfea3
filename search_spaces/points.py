"""Configurations known to be good, which every search tries first: settings of `diffusion` by their dotted paths."""

from typing import Any

_REST = {
    "diffusion.log_snr_min": -20.0,
    "diffusion.ends": "limited",
    "diffusion.self_conditioning": False,
    "diffusion.loss": "mse",
    "diffusion.decoupled": False,
    "diffusion.density": "uniform",
}

TRIED_FIRST: dict[str, dict[str, Any]] = {
    # Öttl et al., 2024, and the networks they study: the ε-target on the linear schedule. The first is the baseline.
    "paper: ε, linear": {
        "diffusion.schedule": "linear",
        "diffusion.input_scale": 1.0,
        "diffusion.target": "epsilon",
        "diffusion.activation": "identity",
        "diffusion.weighting": "target",
        **_REST,
    },
    # Christensen et al., 2025: harder noise by input scaling, and x0 or v in place of ε.
    "x0 with tanh, cosine b = 0.1": {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": 0.1,
        "diffusion.target": "x0",
        "diffusion.activation": "tanh",
        "diffusion.weighting": "snr+1",
        **_REST,
    },
    "v, cosine b = 0.1": {
        "diffusion.schedule": "cosine",
        "diffusion.input_scale": 0.1,
        "diffusion.target": "v",
        "diffusion.activation": "identity",
        "diffusion.weighting": "target",
        **_REST,
    },
}
