"""A study and its data in, finished cells on disk out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupShuffleSplit

import diffqa_features
from diffqa_features import evaluation
from diffqa_features._backbone.settings import read_json
from diffqa_features._commands._study.folder import StudyFolder
from diffqa_features._commands._study.protocols import Line, Study
from diffqa_features._commands._study.sets import Loaded, title_of
from diffqa_features._utils.devices import pick_device
from diffqa_features.learned._files import plain

ERRORS = (
    ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError,
    ArithmeticError,
)  # fmt: skip
"""What ends a cell, and leaves the others to be computed."""

_QUICK_SPLITS = 2


@dataclass(frozen=True)
class Options:
    """How a study is run; the first four decide what it measures."""

    backbone: str
    image_size: int | None
    seed: int
    quick: bool
    device: str | None = None
    memory: str | None = None
    verbose: int = 0
    debug: bool = False

    @property
    def machine(self) -> dict:
        """Parameters of an estimator that change nothing but its speed."""
        return {"device": self.device, "memory": self.memory, "verbose": self.verbose}


@dataclass(frozen=True)
class Fit:
    """One training: the lines that it is tested on, and the split it trains on."""

    lines: tuple[Line, ...]
    split: int | None = None

    @property
    def train(self):
        return self.lines[0].train

    @property
    def key(self) -> str:
        split = "" if self.split is None else f"--split-{self.split}"
        return f"{self.train.key}{split}"

    def cell(self, line: Line) -> str:
        """Name of the cell of one of the lines."""
        return line.key if self.split is None else self.key


def n_splits(study: Study, quick: bool) -> int:
    """Number of random splits of each data set."""
    return min(study.n_splits, _QUICK_SPLITS) if quick else study.n_splits


def list_fits(study: Study, quick: bool) -> list[Fit]:
    """Every training of a study, in the order of its lines."""
    fits = []
    for train in dict.fromkeys(line.train for line in study.lines):
        lines = tuple(line for line in study.lines if line.train == train)
        if lines[0].test is None:
            splits = range(n_splits(study, quick))
            fits += [Fit(lines, split) for split in splits]
        else:
            fits.append(Fit(lines))
    return fits


def build(study: Study, train, options: Options, seed: int):
    """The unfitted estimator for a training set."""
    settings = dict(study.settings)
    if options.backbone != "tiny":
        settings |= study.full_settings
        settings |= study.by_set.get(train.name, {})
    if options.quick:
        settings |= study.quick_settings
    return _class(study)(
        options.backbone,
        image_size=options.image_size,
        random_state=seed,
        **settings,
        **options.machine,
    )


def settings_of(study: Study, options: Options, identity: str) -> dict:
    """All that the figures depend on, besides the data and the software."""
    machine = {*options.machine, "checkpoint_dir"}
    parameters = {}
    for train in dict.fromkeys(line.train for line in study.lines):
        found = build(study, train, options, options.seed).get_params(deep=False)
        parameters[train.key] = {
            name: plain(value) for name, value in found.items() if name not in machine
        }
    return {
        "study": study.name,
        "backbone": options.backbone,
        "backbone_identity": identity,
        "image_size": options.image_size,
        "seed": options.seed,
        "quick": options.quick,
        "splits": n_splits(study, options.quick),
        "estimator": study.estimator,
        "parameters": parameters,
    }


def run_fit(
    study: Study,
    fit: Fit,
    lines: list[Line],
    loaded: dict[str, Loaded],
    folder: StudyFolder,
    options: Options,
    say: Callable[[str], None],
) -> Iterator[tuple[Line, str | None]]:
    """Train once and test on each line; yields each with the reason of a failure."""
    train = loaded[fit.train.key].data
    places = _split_places(study, fit, train, options.seed)
    seed = options.seed + (fit.split or 0)
    model_folder = folder.model(fit.key)
    started = time.perf_counter()
    kept = (model_folder / "config.json").is_file()
    try:
        if kept:
            say(f"{_say(fit)}: the kept weights are used")
            model = _class(study).from_pretrained(
                model_folder, backbone=options.backbone, **options.machine
            )
        else:
            say(f"{_say(fit)}: training on {len(places[0]):,} rows")
            model = build(study, fit.train, options, seed)
            model.set_params(checkpoint_dir=folder.checkpoints(fit.key))
            model.fit([train.data[row] for row in places[0]], train.target[places[0]])
    except ERRORS as error:
        if options.debug:
            raise
        for line in lines:
            yield line, f"in training: {reason_of(error)}"
        return
    seconds = None if kept else round(time.perf_counter() - started, 1)
    if not kept:
        model.save_pretrained(model_folder)
        shutil.rmtree(folder.checkpoints(fit.key), ignore_errors=True)
    facts = read_json(model_folder / "config.json")
    facts = {
        "seed": seed,
        "n_train": len(places[0]),
        "weights_sha256": facts["weights_sha256"],
        "history": facts["fitted"]["history_"],
        "seconds": seconds,
        "device": str(pick_device(options.device)),
    }
    for line in lines:
        started = time.perf_counter()
        try:
            table = _test(study, line, model, loaded, places, options.seed)
        except ERRORS as error:
            if options.debug:
                raise
            yield line, f"in the test: {reason_of(error)}"
            continue
        record = {
            "train": fit.train.key,
            "test": line.test.key if line.test else "held-out",
            "split": fit.split,
            **_figures(table.frame),
            "fit": facts,
            "seconds": round(time.perf_counter() - started, 1),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        tested = loaded[(line.test or line.train).key].data
        predictions = table.predictions[["row", "group", "y_true", "y_pred"]]
        names = [tested.names[row] for row in predictions["row"]]
        folder.keep(fit.cell(line), record, predictions.assign(file=names))
        yield line, None
    if fit.split is not None and all(folder.finished(fit.cell(x)) for x in fit.lines):
        # Nothing will be tested on it again, and there are ten of them. Other models
        # stay for data sets that arrive later.
        shutil.rmtree(model_folder)


def _class(study):
    return getattr(diffqa_features, study.estimator)


def _split_places(study, fit, train, seed):
    """(rows that train, rows held out)."""
    rows = np.arange(len(train.data))
    if fit.split is None:
        return rows, rows[:0]
    splitter = GroupShuffleSplit(
        fit.split + 1, test_size=study.test_size, random_state=seed
    )
    return list(splitter.split(rows, groups=train.groups))[fit.split]


def _test(study, line, model, loaded, places, seed):
    before = {name: model.get_params(deep=False)[name] for name in line.settings}
    model.set_params(**line.settings)
    frozen = {study.system: FrozenEstimator(model)}
    options = {
        "metrics": study.metrics,
        "mapping": study.mapping,
        "random_state": seed,
    }
    train = loaded[line.train.key].data
    try:
        if line.test is not None:
            return evaluation.cross_dataset(
                frozen,
                {line.train.key: train},
                {line.test.key: loaded[line.test.key].data},
                **options,
            )
        split = np.full(len(train.data), "train")
        split[places[1]] = "test"
        return evaluation.official_split(
            frozen, train.data, train.target, split, groups=train.groups, **options
        )
    finally:
        model.set_params(**before)


def _figures(frame):
    metrics = {}
    for row in frame.itertuples():
        numbers = {"value": row.value, "low": row.low, "high": row.high}
        metrics[row.metric] = {  # an interval can be undefined, and JSON has no NaN
            name: None if np.isnan(number) else float(number)
            for name, number in numbers.items()
        }
    return {
        "n_test": int(frame["n_test"].iloc[0]),
        "n_groups": int(frame["n_groups"].iloc[0]),
        "metrics": metrics,
    }


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _say(fit):
    split = "" if fit.split is None else f", split {fit.split}"
    return f"{title_of(fit.train)}{split}"
