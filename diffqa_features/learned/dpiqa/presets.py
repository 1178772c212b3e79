"""A backbone or the name of a data set in, settings of DP-IQA's training out."""

from __future__ import annotations

from diffqa_features.learned._presets import is_narrow

_PUBLISHED = {"learning_rate": 1e-5, "max_epochs": 30, "normalization": "unit"}

PRESETS = {
    # The released code, by the data set that it trains on.
    "koniq": {**_PUBLISHED, "milestones": (5,)},
    "clive": {**_PUBLISHED, "milestones": (10,)},
    "livefb": {**_PUBLISHED, "milestones": (2,)},
    "spaq": {**_PUBLISHED, "milestones": (5,)},
    "kadid": {**_PUBLISHED, "milestones": (5,)},
    "live": {**_PUBLISHED, "milestones": (2,)},
    "tid2013": {**_PUBLISHED, "milestones": (10,)},
    # Ours; docs/dpiqa.rst says what they come from.
    "tiny": {
        "learning_rate": 3e-4,
        "max_epochs": 4,
        "normalization": "vae",
        "milestones": (3,),
    },
}
"""Name -> the parameters that a None stands for."""


def preset_of(info) -> str:
    """Name of the preset for a backbone: that of `tiny` if its UNet is as narrow."""
    return "tiny" if is_narrow(info) else "koniq"
