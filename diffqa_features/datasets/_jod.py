"""Visible loss in JOD: a reference and what became of it in, one number out."""

from functools import cache

import numpy as np

_DISPLAY = "standard_4k"  # 30 inches, 3840 x 2160, seen from 0.75 m


def jod_of_picture(reference: np.ndarray, image: np.ndarray) -> float:
    """JOD of a uint8 picture (H, W, 3) beside its reference, 10 for no visible loss."""
    return _predict(image, reference, dim_order="HWC")


def jod_of_clip(reference: np.ndarray, frames: np.ndarray, frame_rate: float) -> float:
    """JOD of a uint8 clip (T, H, W, 3) beside a reference of as many frames."""
    return _predict(
        frames, reference, dim_order="FHWC", frames_per_second=float(frame_rate)
    )


def _predict(test, reference, **how) -> float:
    if np.array_equal(test, reference):
        return 10.0  # by definition; the metric comes to it but for rounding
    jod, _ = _metric().predict(
        np.ascontiguousarray(test), np.ascontiguousarray(reference), **how
    )
    return float(jod)


@cache
def _metric():
    try:
        import pycvvdp
    except ImportError as error:
        raise ImportError(
            "JOD is computed by ColorVideoVDP, whose package cvvdp cannot be imported "
            f"({error}); install it with pip install 'diffqa-features[jod]', or ask "
            "for target='level'."
        ) from error
    return pycvvdp.cvvdp(display_name=_DISPLAY, quiet=True)
