"""Adjacent frames in, statistics of how they change out.

Everything is taken of the same tiles in all frames of a burst, at native resolution,
and relative to the time between frames or to the frames before and after: a still
scene, a cut or a slide is no fault.
"""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_LAGS = (2, 4, 8)
_SMALL = 0.05  # grey levels; smaller changes are no motion
_REPEAT = -1.6  # log of the share of its neighbours' change that a repeat has at most
_LAG_CORRELATIONS = (1, 2, 3, 4, 5, 6, 8)


def to_luma(tiles: np.ndarray) -> np.ndarray:
    """Luminance of tiles (n, h, w, 3), uint8."""
    return np.rint(tiles @ LUMA).astype(np.uint8)


def describe_burst(luma: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Statistics by name, of luminance (T, n, h, w) shown at `times`, seconds."""
    parts = [_series(luma[:, tile].astype(np.float32)) for tile in range(luma.shape[1])]
    series = {name: np.mean([part[name] for part in parts], 0) for name in parts[0]}
    found = {}
    found.update(_of_time(times))
    found.update(_of_change(series))
    found.update(_of_repeats(series, times))
    found.update(_of_speed(series, found["log_rate"]))
    found.update(_of_light(series))
    found.update(_of_detail(series))
    return found


def _series(y: np.ndarray) -> dict[str, np.ndarray]:
    """Means over a tile (T, h, w): what changes between frames, and what is there."""
    half = _halve(y)
    coarse = _halve(half)
    step = np.diff(y, axis=0)
    change = np.abs(step)
    mean = y.mean((1, 2))
    middle, most = np.quantile(change[:, ::2, ::2], (0.5, 0.9), axis=(1, 2))
    found = {
        "fine": change.mean((1, 2)),
        "coarse": np.abs(np.diff(coarse, axis=0)).mean((1, 2)),
        "same": (change < 0.5).mean((1, 2)),
        "most": most,
        "middle": middle,
        "mean": mean,
        "detail": _detail(y),
        "half_detail": _detail(half),
        # What is left of it when all pixels got brighter alike.
        "unlit": np.abs(step - np.diff(mean)[:, None, None]).mean((1, 2)),
        "second": np.abs(y[2:] - 2 * y[1:-1] + y[:-2]).mean((1, 2)),
    }
    for lag in _LAGS:
        if len(y) > lag:
            found[f"lag{lag}"] = np.abs(coarse[lag:] - coarse[:-lag]).mean((1, 2))
    found.update(_flow_sums(coarse))
    return found


def _flow_sums(y):
    """Sums of least squares for a common shift of two frames (Lucas and Kanade)."""
    both = (y[1:] + y[:-1]) / 2
    gx = (both[:, 1:-1, 2:] - both[:, 1:-1, :-2]) / 2
    gy = (both[:, 2:, 1:-1] - both[:, :-2, 1:-1]) / 2
    gt = np.diff(y, axis=0)[:, 1:-1, 1:-1]
    gt = gt - gt.mean((1, 2), keepdims=True)
    pairs = {"xx": (gx, gx), "xy": (gx, gy), "yy": (gy, gy)}
    pairs |= {"xt": (gx, gt), "yt": (gy, gt), "tt": (gt, gt)}
    return {name: (a * b).mean((1, 2)) for name, (a, b) in pairs.items()}


def _detail(y):
    """Mean difference of neighbouring pixels."""
    return sum(np.abs(np.diff(y, axis=axis)).mean((1, 2)) for axis in (2, 1)) / 2


def _halve(y):
    """Means of 2 × 2 pixels."""
    h, w = y.shape[1] // 2 * 2, y.shape[2] // 2 * 2
    y = y[:, :h, :w]
    return (
        y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]
    ) * np.float32(0.25)


def _of_time(times):
    steps = np.diff(times)
    usual = np.median(steps)
    return {
        "log_rate": float(-np.log(usual)),
        "longest_gap": float(np.log(steps.max() / usual)),
        "uneven": float(np.std(steps) / usual),
    }


def _of_change(series):
    found = {}
    for name in ("fine", "coarse", "most", "middle"):
        values = np.log(series[name] + _SMALL)
        found |= _spread(name, values)
    fine, coarse = (np.log(series[name] + _SMALL) for name in ("fine", "coarse"))
    found |= _spread("fine_to_coarse", fine - coarse, brief=True)
    found |= _spread("most_to_middle", np.log(series["most"] + 0.5)
                     - np.log(series["middle"] + 0.5), brief=True)  # fmt: skip
    found |= _spread("same", series["same"], brief=True)
    base = np.log(series["coarse"].mean() + _SMALL)
    for lag in _LAGS:
        values = series.get(f"lag{lag}", series["coarse"])
        found[f"growth{lag}"] = float(np.log(values.mean() + _SMALL) - base)
    second = np.log(series["second"] + _SMALL)
    found |= _spread("second", second - fine[1:], brief=True)
    for name, values in (("fine", fine), ("coarse", coarse)):
        values = np.clip(values - np.median(values), -2, 2)
        power = np.mean(values**2) + 0.02
        for lag in _LAG_CORRELATIONS:
            product = values[lag:] * values[:-lag]
            mean = product.mean() if len(product) else 0.0
            found[f"{name}_correlation{lag}"] = float(mean / power)
    return found


def _of_repeats(series, times):
    """Against the frames around: how often nothing changes, for how long, what next."""
    found = {}
    for name in ("fine", "coarse"):
        values = np.log(series[name] + _SMALL)
        around = _around(values)
        relative = values - around
        found |= _spread(f"{name}_relative", relative)
        lowest = np.sort(relative)
        found[f"{name}_second_lowest"] = float(lowest[min(1, len(lowest) - 1)])
        found[f"{name}_second_highest"] = float(lowest[max(-2, -len(lowest))])
        found[f"{name}_jerk"] = float(np.abs(np.diff(relative)).mean())
    values = np.log(series["fine"] + _SMALL)
    # Half of what changes in a clip at all: repeats of every other frame stay repeats.
    usual = np.log(np.quantile(series["fine"], 0.8) + _SMALL)
    moving = usual > np.log(4 * _SMALL)
    repeat = (values - usual < _REPEAT) & moving
    exact = series["same"] > 0.9995
    for name, of in (("repeats", repeat), ("exact", exact)):
        runs = _runs(of)
        count = len(of)
        found[f"{name}_share"] = float(of.mean())
        found[f"{name}_longest"] = float(max(runs, default=0) / count)
        found[f"{name}_seconds"] = float(np.log1p(
            30 * max(runs, default=0) * np.median(np.diff(times))))  # fmt: skip
        found[f"{name}_runs"] = float(len(runs) / count)
        found[f"{name}_single"] = float(sum(run == 1 for run in runs) / count)
    # What comes after a repeat: a jump if playback catches up.
    after = np.flatnonzero(repeat[:-1] & ~repeat[1:]) + 1
    others = values[~repeat]
    middle = np.median(others) if len(others) else usual
    jumps = values[after] - middle
    found["jump"] = float(jumps.max(initial=0.0))
    found["jump_mean"] = float(jumps.mean()) if len(jumps) else 0.0
    found["moving"] = float(moving)
    return found


def _of_speed(series, log_rate):
    """How far the picture moves per frame and second, and how evenly."""
    xx, xy, yy, xt, yt, tt = (series[n] for n in ("xx", "xy", "yy", "xt", "yt", "tt"))
    ridge = 0.02 * (xx + yy) + 0.01
    determinant = (xx + ridge) * (yy + ridge) - xy**2
    u = -((yy + ridge) * xt - xy * yt) / determinant
    v = -((xx + ridge) * yt - xy * xt) / determinant
    speed = 4 * np.hypot(u, v)  # pixels of the clip
    explained = np.clip(-(u * xt + v * yt) / (tt + 0.02), 0, 1)
    found = _spread("speed", np.log(speed + 0.02))
    mean = speed.mean() + 0.02
    bend = np.hypot(np.diff(u), np.diff(v)) * 4
    found["bend"] = float(np.log((bend.mean() + 0.01) / mean))
    found["bend_most"] = float(np.log((bend.max() + 0.01) / mean))
    found["bend_middle"] = float(np.log((np.median(bend) + 0.01) / mean))
    found["speed_uneven"] = float(speed.std() / mean)
    found["straight"] = float(4 * np.hypot(u.mean(), v.mean()) / mean)
    found["per_second"] = float(np.log(mean) + log_rate)
    found |= _spread("explained", explained, brief=True)
    reach = np.log(series["fine"] + _SMALL) - np.log(series["detail"][1:] + 0.5)
    found |= _spread("reach", reach)
    return found


def _of_light(series):
    """Brightness from frame to frame, apart from cuts and slow changes."""
    light = np.log(series["mean"] + 4)
    step = np.diff(light)
    found = {
        "light_mean": float(np.log(np.abs(step).mean() + 1e-4)),
        "light_middle": float(np.log(np.median(np.abs(step)) + 1e-4)),
        "light_high": float(np.log(np.quantile(np.abs(step), 0.85) + 1e-4)),
        "light_most": float(np.log(np.abs(step).max() + 1e-4)),
        "light_jerk": float(np.log(np.median(np.abs(np.diff(step))) + 1e-4)),
        "light_turns": float((step[1:] * step[:-1] < 0).mean()),
        "light_drift": float(np.abs(step.mean()) / (np.abs(step).mean() + 1e-4)),
    }
    unlit = np.log(series["unlit"] + _SMALL) - np.log(series["fine"] + _SMALL)
    return found | _spread("unlit", unlit, brief=True)


def _of_detail(series):
    """Sharpness, and how it comes and goes."""
    detail = np.log(series["detail"] + 0.1)
    ratio = detail - np.log(series["half_detail"] + 0.1)
    found = _spread("detail", detail, brief=True)
    found |= _spread("detail_ratio", ratio, brief=True)
    for name, values in (("detail", detail), ("detail_ratio", ratio)):
        step = np.abs(np.diff(values))
        found[f"{name}_step"] = float(np.log(step.mean() + 1e-3))
        found[f"{name}_step_middle"] = float(np.log(np.median(step) + 1e-3))
        found[f"{name}_step_most"] = float(np.log(step.max() + 1e-3))
    found["brightness"] = float(np.log(series["mean"].mean() + 4))
    return found


def _spread(name, values, brief=False):
    shares = (0.1, 0.5, 0.9) if brief else (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    found = {
        f"{name}_{round(100 * share)}": float(np.quantile(values, share))
        for share in shares
    }
    return found | {
        f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())
    }  # fmt: skip


def _around(values, reach=3):
    """Median of up to three values before and after each."""
    count = len(values)
    found = np.empty(count)
    for at in range(count):
        near = [i for i in range(at - reach, at + reach + 1) if 0 <= i < count]
        near.remove(at)
        found[at] = np.median(values[near]) if near else values[at]
    return found


def _runs(of):
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], of.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()
