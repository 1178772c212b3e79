"""Temporal artefacts: a number of frames in, frame indices and gains out."""

import numpy as np


def retime(family, n_frames, severity, rng):
    """Choose the source frame and brightness of each output frame.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    n_frames : int
        Frames of the source, at least 8.
    severity : float
        0 is the mildest setting of the family (already a change), 1 the strongest.
    rng : numpy.random.Generator
        Determines where and how artefacts occur.

    Returns
    -------
    indices : ndarray of shape (m,), dtype int64
        Source frames in display order, never going backwards. Dropped frames make the
        clip shorter (m < n_frames); every other family keeps its length.
    gains : ndarray of shape (m,), dtype float64
        Factors on the 8-bit values of the frames; 1 leaves brightness unchanged.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"Unknown temporal family {family!r}. Known: {', '.join(FAMILIES)}."
        )
    return FAMILIES[family](int(n_frames), float(severity), rng)


def _between(mild, strong, severity):
    return mild * (strong / mild) ** severity


def _frame_drop(n, severity, rng):
    """Drop bursts of two to five frames; the next frame follows immediately."""
    shown = np.ones(n, bool)
    target = max(1, round(n * min(_between(0.05, 0.5, severity), 0.7)))
    while (missing := n - shown.sum()) < target:
        length = min(rng.integers(2, 6), target - missing)
        start = rng.integers(1, n - length)  # the first and the last frame stay
        shown[start : start + length] = False
    indices = np.flatnonzero(shown)
    return indices, np.ones(len(indices))


def _freeze(n, severity, rng):
    """One or two freezes, after which playback catches up."""
    indices = np.arange(n)
    held = max(2, round(n * min(_between(0.06, 0.7, severity), 0.9)))
    runs = 2 if held >= 8 and rng.random() < 0.5 else 1
    length = held // runs
    # Places in each half (or the whole), so that two stills do not meet.
    for run in range(runs):
        first, last = run * n // runs, (run + 1) * n // runs - length
        start = rng.integers(first, max(last, first + 1))
        indices[start : start + length + 1] = indices[start]
    return indices, np.ones(n)


def _judder(n, severity, rng):
    """Each frame comes a little early or late, but never out of order."""
    spread = _between(0.5, 3.0, severity)
    indices = np.sort(np.rint(np.arange(n) + rng.normal(0, spread, n)))
    return np.clip(indices, 0, n - 1).astype(np.int64), np.ones(n)


def _frame_rate(n, severity, rng):
    """Fewer frames per second, each held until the next."""
    hold = _between(1.5, 8.0, severity)
    phase = rng.random()
    held = np.floor((np.floor(np.arange(n) / hold + phase) - phase) * hold)
    return np.clip(np.ceil(held), 0, n - 1).astype(np.int64), np.ones(n)


def _flicker(n, severity, rng):
    """Brightness varies from frame to frame."""
    gains = np.exp(_between(0.012, 0.2, severity) * rng.normal(size=n))
    return np.arange(n), gains


FAMILIES = {
    "frame_drop": _frame_drop,
    "freeze": _freeze,
    "judder": _judder,
    "frame_rate": _frame_rate,
    "flicker": _flicker,
}
