"""A backbone's description in, whether settings for narrow models suit it out."""

from __future__ import annotations

_NARROWEST = 320  # channels of Stable Diffusion's finest level


def is_narrow(info) -> bool:
    """Whether the UNet is narrower than Stable Diffusion's, as that of `tiny` is.

    Published rates and numbers of epochs are for Stable Diffusion and ten thousand
    pictures; they teach a narrow model nothing.
    """
    return min(block.channels for block in info.blocks) < _NARROWEST
