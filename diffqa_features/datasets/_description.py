"""Description of a published dataset, and the texts generated from it."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

_OPEN = float("inf")


@dataclass(frozen=True)
class Score:
    """A column of scores: the ends of its scale, and which direction is better.

    An open end is infinite. `strict` is false if scores exceed the scale by design.
    """

    column: str
    low: float = -_OPEN
    high: float = _OPEN
    higher_is_better: bool = True
    strict: bool = True

    def __str__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        if self.low == -_OPEN:
            scale = "no fixed scale"
        else:
            scale = f"scale {self.low:g} to {self.high:g}"
            if not self.strict:
                scale += ", which some scores exceed"
        return f"`{self.column}`, {scale}, {better} is better"


@dataclass(frozen=True)
class Option:
    """A parameter that only one loader has."""

    constraints: list
    type: str  # as in the docstring
    default: object
    text: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One published dataset. `table` turns its label files into rows.

    `layouts` are the known file layouts, each a tuple of patterns of which one matches
    a row; ``{name}`` stands for that column of the row, and a pattern that starts with
    ``**/`` is searched for in all folders.
    """

    loader: str
    title: str
    about: str
    tree: str
    scores: dict[str, Score]
    groups: str
    licence: str
    access: str
    url: str
    cite: str
    table: Callable
    layouts: tuple[tuple[str, ...], ...]
    n_rows: int | None = None
    parts: dict[str, str] = field(default_factory=dict)  # what `subset` accepts
    part_column: str = "split"  # another if the parts are not an official split
    finish: Callable | None = None  # last word on the table, once paths are known
    options: dict[str, Option] = field(default_factory=dict)
    score_text: str = ""
    columns: tuple[str, ...] = ()  # in `data` besides the path
    columns_text: str = ""
    notes: str = ""
    unsure: str = ""
    on_missing: str = "raise"
    media: str = "images"

    @property
    def way_out(self) -> str:
        """End of an error message about missing files."""
        return (
            f"The folder should look like this:\n\n{self.tree_text}\n\n"
            f"Where to get it: {self.source}."
        )

    @property
    def source(self) -> str:
        return " ".join(f"{self.url} ({self.access})".split())

    @property
    def split_text(self) -> str:
        if not self.parts or self.part_column != "split":
            return "none."
        return _parts_text(self)

    @property
    def tree_text(self) -> str:
        return textwrap.indent(textwrap.dedent(self.tree).strip("\n"), "    ")

    def describe(self, found: list[str]) -> str:
        """Text for `DESCR`; `found` lists what this copy contains."""
        parts = [
            ("", self.about),
            ("Scores: ", "; or ".join(map(str, self.scores.values()))),
            ("", self.score_text),
            ("Groups: ", self.groups),
            ("Official split: ", self.split_text),
            ("", self.notes),
            ("Not verified: ", self.unsure),
            ("Licence: ", self.licence),
            ("Where to ask for it: ", self.source),
            ("Please cite: ", self.cite),
        ]
        lines = [self.title, "=" * len(self.title), ""]
        for label, text in parts:
            if text:
                lines += [_fill(label + text), ""]
        lines += ["Files:", "", self.tree_text, "", "This copy:", ""]
        return "\n".join([*lines, *(f"- {line}" for line in found)])


def documented(dataset: Dataset) -> Callable:
    """Give a loader its description, and the docstring generated from it."""

    def decorate(function: Callable) -> Callable:
        function.description = dataset
        function.__doc__ = _docstring(dataset)
        return function

    return decorate


def _docstring(dataset: Dataset) -> str:
    several = len(dataset.scores) > 1
    first = next(iter(dataset.scores.values()))
    target = f"Score as delivered: {'as `score` says' if several else first}."
    parts = [
        f"Load {dataset.title} from a local copy.",
        "",
        _fill(dataset.about),
        "",
        "Parameters\n----------",
        "root : str or path-like",
        _text(
            "Folder of the local copy in its official layout, see Notes. An "
            "extra enclosing folder, as archives create, is fine."
        ),
    ]
    if several:
        names = ", ".join(f'"{name}"' for name in dataset.scores)
        default = next(iter(dataset.scores))
        kinds = "; ".join(f'``"{k}"``: {v}' for k, v in dataset.scores.items())
        parts += [f'score : {{{names}}}, default="{default}"', _text(f"{kinds}.")]
    for name, option in dataset.options.items():
        parts += [
            f"{name} : {option.type}, default={_code(option.default)}",
            _text(option.text),
        ]
    parts += [_subset_text(dataset), _COMMON.format(_code(dataset.on_missing)), ""]
    parts += [
        "Returns\n-------",
        f"{dataset.media} : :class:`~sklearn.utils.Bunch`",
        _text("Dictionary-like object with the attributes"),
        "",
        "    data : list of str, or DataFrame",
        _text(_data_text(dataset), 8),
        "    target : ndarray of shape (n,), dtype float64, or Series",
        _text(target, 8),
        _BUNCH.format(groups=_text(dataset.groups, 8)),
        "",
        "(data, target) : tuple",
        _text("If `return_X_y` is true."),
        "",
        _RAISES,
        "",
        "Notes\n-----",
        "The local copy::",
        "",
        dataset.tree_text,
        "",
    ]
    unsure = f"Not verified: {dataset.unsure}" if dataset.unsure else ""
    parts += [
        _fill(text) + "\n"
        for text in (
            dataset.score_text,
            dataset.notes,
            unsure,
            f"Licence: {dataset.licence}",
            f"Where to ask for it: {dataset.source}",
        )
        if text
    ]
    parts += ["References\n----------", _fill(dataset.cite, ".. [1] ", "   "), ""]
    return "\n".join(parts)


def _data_text(dataset: Dataset) -> str:
    if not dataset.columns:
        return "Absolute paths; with ``as_frame=True`` as the column ``path``."
    return f"Absolute paths. {dataset.columns_text}"


def _subset_text(dataset: Dataset) -> str:
    if not dataset.parts:
        return 'subset : {"all"}, default="all"\n' + _text(
            "There is no official split, so everything is loaded."
        )
    names = ", ".join(f'"{name}"' for name in dataset.parts)
    text = "Part to load: " + _parts_text(dataset) + ' ``"all"`` is everything.'
    return f'subset : {{"all", {names}}}, default="all"\n' + _text(text)


def _parts_text(dataset: Dataset) -> str:
    return "; ".join(f'``"{k}"``: {v}' for k, v in dataset.parts.items()) + "."


def _code(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _fill(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        88,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _text(text: str, indent: int = 4) -> str:
    return _fill(text, " " * indent, " " * indent)


_COMMON = """return_X_y : bool, default=False
    Return ``(data, target)`` instead of a Bunch.
as_frame : bool, default=False
    Return `data` as a DataFrame with the column ``path``, `target` as a Series, and
    all columns of the label file in `frame`.
on_missing : {{"raise", "drop"}}, default={}
    What to do if files of the label file are missing or empty: ``"raise"`` an error
    that names them, or ``"drop"`` their rows, warn, and list them in `missing`."""

_BUNCH = """    target_range : tuple of (float, float)
        Lower and upper end of the scale, infinite where it is open.
    higher_is_better : bool
        Direction of `target`, which is never inverted.
    groups : ndarray of shape (n,), dtype str
{groups}
    split : ndarray of shape (n,), dtype str, or None
        Part of the official split, named as in `subset`; None if there is none.
    frame : DataFrame or None
        With ``as_frame=True``: ``path``, ``target``, ``group``, ``split`` and all
        columns of the label file, unchanged.
    missing : list of str
        Files that are in the label file but not in the folder.
    DESCR : str
        Files, columns, licence, citation, and what this copy contains."""

_RAISES = """Raises
------
FileNotFoundError
    If the label file or, with ``on_missing="raise"``, any file that it names is
    missing.
ValueError
    If a label file does not have the documented columns or values."""
