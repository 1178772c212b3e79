"""Finished cells in; a table, a CSV file and a figure out, ours beside theirs."""

from __future__ import annotations

from textwrap import fill, shorten

import numpy as np
import pandas as pd

from diffqa_features._commands._study.folder import StudyFolder
from diffqa_features._commands._study.protocols import MARKS, Line, Study
from diffqa_features._commands._study.runs import n_splits
from diffqa_features._commands._study.sets import QUICK_ROWS, title_of
from diffqa_features._utils.files import whole_file, write_whole
from diffqa_features.evaluation import EvaluationTable
from diffqa_features.inspection._style import COLORS, PAGE, SMALL, TEXT, dress, tidy

WRITTEN = ("table.md", "table.csv", "figure.png")


def write_tables(
    study: Study, folder: StudyFolder, missing: dict[str, str]
) -> EvaluationTable:
    """Write the files of `WRITTEN`; return the table as it is read.

    `missing` says why parts, by key, are not there.
    """
    results = summarise(study, folder, missing)
    about = caption(study, folder.log["settings"])
    table = EvaluationTable(_to_read(study, results), _facts(study, folder, results))
    text = f"# {study.title}\n\n{about}\n\n{table.to_markdown()}\n"
    write_whole(folder.path / WRITTEN[0], text)
    facts = {"caption": about, **table.facts}
    EvaluationTable(results, facts).to_csv(folder.path / WRITTEN[1])
    with whole_file(folder.path / WRITTEN[2]) as path:
        _draw(study, results, about, path)
    return EvaluationTable(table.frame, {"caption": about, **table.facts})


def caption(study: Study, settings: dict) -> str:
    """What was trained, and how far it is from what the paper trained."""
    backbone = settings["backbone"]
    ours = f"Ours: {study.estimator} on {backbone}"
    if settings["image_size"] is not None:
        ours += f" at {settings['image_size']} pixels"
    if backbone == "tiny":
        ours += (
            f". This is NOT THE MODEL OF THE PAPER ({study.backbone_text}): tiny is "
            "a small model that shows that the protocol runs. Compare none of its "
            "figures with the published ones"
        )
    elif backbone == study.backbone and study.backbone_mark != "chosen":
        ours += ", as in the paper"
    else:
        ours += f"; {study.backbone_text}"
    if settings["quick"]:
        given = [f"{name}={value}" for name, value in study.quick_settings.items()]
        if study.n_splits > 1:
            given.append(f"{settings['splits']} of {study.n_splits} splits")
        ours += (
            f". QUICK RUN: at most {QUICK_ROWS} rows of each set, {', '.join(given)}. "
            "This is a trial of the machinery, not a result"
        )
    return f"{ours}. Published figures are their authors' and were not measured here."


def summarise(
    study: Study, folder: StudyFolder, missing: dict[str, str]
) -> pd.DataFrame:
    """One row per line of the table and metric, in full precision."""
    rows = []
    for line in study.lines:
        cells, states = _cells(study, line, folder, missing)
        theirs = line.published
        for metric in study.metrics:
            figures = [cell["metrics"][metric] for cell in cells]
            rows.append(
                {
                    "train": title_of(line.train),
                    "test": _tested(study, line),
                    "metric": metric,
                    **_interval(line, figures),
                    "n_fits": len(cells),
                    "n_test": cells[0]["n_test"] if cells else None,
                    "published": getattr(theirs, metric) if theirs else None,
                    "published_mark": theirs.mark if theirs else "",
                    "published_source": theirs.source if theirs else "",
                    "line_mark": line.mark,
                    "state": "; ".join(dict.fromkeys(states)),
                }
            )
    numbers = {"ours": float, "low": float, "high": float, "published": float}
    return pd.DataFrame(rows).astype({**numbers, "n_test": "Int64"})


def _cells(study, line, folder, missing):
    """(records of the finished cells, why the others are not)."""
    log = folder.log
    names = [line.key]
    if line.test is None:
        splits = range(n_splits(study, log["settings"]["quick"]))
        names = [f"{line.train.key}--split-{split}" for split in splits]
    cells, states = [], []
    for name in names:
        cell = folder.finished(name)
        if cell is not None:
            cells.append(cell)
        elif name in log["failed"]:
            states.append(f"failed: {log['failed'][name]}")
        else:
            absent = [missing[p.key] for p in line.parts if p.key in missing]
            states += absent or ["not computed yet"]
    return cells, states


def _interval(line, figures):
    values = [figure["value"] for figure in figures]
    if not values:
        return {"ours": None, "low": None, "high": None, "interval": ""}
    if line.test is None:
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        kind = "median and quartiles over splits"
        return {"ours": middle, "low": low, "high": high, "interval": kind}
    (figure,) = figures
    kind = "95 % bootstrap by source"
    return {
        "ours": figure["value"], "low": figure["low"], "high": figure["high"],
        "interval": kind,
    }  # fmt: skip


def _tested(study, line: Line) -> str:
    if line.test is not None:
        return title_of(line.test)
    return f"{study.test_size * 100:g} % held out"


# -- the table that is read --


def _to_read(study, results):
    """One row per line, texts only."""
    rows = []
    for _, pair in results.groupby(["train", "test"], sort=False):
        first = pair.iloc[0]
        row = {"trained on": first["train"], "tested on": first["test"]}
        for cells in pair.itertuples():
            name = cells.metric.upper()
            row[f"{name} ours"] = _said(cells)
            row[f"{name} published"] = _number(cells.published)
        row["published by"] = first["published_source"]
        row["pair"] = first["line_mark"]
        if study.n_splits > 1:
            row["splits"] = str(first["n_fits"])
        row["n test"] = "" if pd.isna(first["n_test"]) else f"{first['n_test']:,}"
        row["state"] = first["state"] or "done"
        rows.append(row)
    return pd.DataFrame(rows)


def _said(cells):
    if np.isnan(cells.ours):
        return ""
    if np.isnan(cells.low):
        return f"{_number(cells.ours)} [undefined]"
    return f"{_number(cells.ours)} [{_number(cells.low)}, {_number(cells.high)}]"


def _number(value):
    # Not "-0.000".
    return "" if np.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def _facts(study, folder, results):
    marks = {*results["line_mark"], *results["published_mark"]} - {""}
    kinds = [kind for kind in dict.fromkeys(results["interval"]) if kind]
    facts = {
        "paper": study.reference,
        "intervals of ours": "; ".join(kinds) or "nothing computed yet",
        "pair, and marks": "; ".join(
            f"{mark}: {text}" for mark, text in MARKS.items() if mark in marks
        ),
    }
    for number, text in enumerate(study.notes, start=1):
        facts[f"note {number}"] = text
    changed = _versions(folder)
    if len(changed) > 1:
        facts["software"] = (
            f"cells were computed by {len(changed)} versions of the software, see "
            "study.json"
        )
    return facts


def _versions(folder):
    paths = sorted((folder.path / "cells").glob("*.json"))
    return {str(folder.finished(path.stem)["software"]) for path in paths}


# -- the figure --


def _draw(study, results, about, path):
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(zip(results["train"], results["test"])))
    height = 1.5 + 0.34 * len(pairs)
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    axes = figure.subplots(1, len(study.metrics), sharey=True)
    for ax, metric in zip(axes, study.metrics):
        dress(ax)
        chosen = results[results["metric"] == metric]
        places = np.arange(len(chosen))
        ours = chosen["ours"].to_numpy()
        reach = [ours - chosen["low"], chosen["high"] - ours]
        # An interval that is undefined has no reach.
        reach = np.clip(np.nan_to_num(reach), 0, None)
        published = {"color": COLORS[1], "markerfacecolor": "white", "markersize": 4}
        ax.plot(
            chosen["published"],
            places + 0.13,
            "D",
            label="published (theirs, not measured here)",
            **published,
        )
        ours_style = {"color": COLORS[0], "markersize": 4, "linewidth": 1.2}
        ax.errorbar(
            ours,
            places - 0.13,
            xerr=reach,
            fmt="o",
            capsize=2,
            label="ours, with interval",
            **ours_style,
        )
        for place, value, state in zip(places, ours, chosen["state"]):
            if np.isnan(value):
                ax.annotate(
                    shorten(state, 40),
                    (0.01, place - 0.13),
                    xycoords=ax.get_yaxis_transform(),
                    va="center",
                    fontsize=6,
                    color="0.4",
                )
        ax.set_yticks(places, [f"{a} → {b}" for a, b in pairs], fontsize=SMALL)
        ax.set_ylim(len(pairs) - 0.5, -0.5)
        ax.set_xlim(*_limits(chosen))
        ax.set_xlabel(metric.upper(), fontsize=TEXT)
        tidy(ax)
    handles, _ = axes[0].get_legend_handles_labels()
    if results["published"].isna().all():
        handles = handles[1:]
    figure.legend(
        handles=handles,
        loc="outside upper right", ncols=2, fontsize=SMALL, frameon=False,
    )  # fmt: skip
    figure.supxlabel(fill(about, 150), x=0.01, ha="left", fontsize=6)
    axes[0].set_title(study.title, loc="left", fontsize=TEXT)
    figure.savefig(path, dpi=200, format="png")


def _limits(chosen):
    """From 0 to 1, further where a figure is negative."""
    lowest = chosen[["ours", "low", "published"]].min().min()
    return min(0.0, 0 if np.isnan(lowest) else lowest) - 0.03, 1.03
