"""Pages that are made of the package itself, so that they cannot fall behind it.

``api.rst`` of every public name, tables of the datasets' descriptions and of the
papers' protocols, and the list of the backbones' mirrors.
"""

import inspect
import pkgutil
import warnings
from importlib import import_module
from pathlib import Path

from scale_table import scale_table
from sphinx.pycode import ModuleAnalyzer

import diffqa_features
from diffqa_features import _HOMES, datasets
from diffqa_features._backbone.hub import MIRRORS
from diffqa_features._commands._study.protocols import STUDIES
from diffqa_features._commands._study.sets import title_of
from diffqa_features.datasets._description import Dataset

ROOMS = {
    "": "Estimators and store",
    "datasets": "Datasets",
    "metrics": "Metrics",
    "evaluation": "Evaluation",
    "inspection": "Displays",
    "distributed": "Many processes and machines",
}


EXAMPLES = Path(diffqa_features.__file__).parents[1] / "examples"
_before = []


class FirstScoreFirst:
    """Order of the gallery: the first steps, then by name."""

    def __init__(self, src_dir):
        self.src_dir = src_dir

    def __call__(self, filename):
        return filename != "plot_first_score.py", filename


def guard_example(gallery_conf, path, when):
    """Deprecations are errors while an example runs, and it leaves no file behind."""
    files = {file.name for file in EXAMPLES.iterdir()}
    if when == "before":
        _before[:] = [warnings.filters[:], files]
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("error", category)
    else:
        filters, known = _before
        warnings.filters[:] = filters
        if files - known:
            raise RuntimeError(f"{path} leaves {', '.join(sorted(files - known))}.")


def write_all(folder: Path) -> dict[str, list[str]]:
    """Write the pages; return the methods of each public class."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "api.rst", api_page())
    _write(folder / "mirrors.inc", mirrors_list())
    _write(folder / "studies.inc", studies_tables())
    _write(folder / "scale.inc", scale_table())
    for media in ("images", "videos"):
        _write(folder / f"{media}.inc", datasets_table(media))
    return {path: own_members(thing) for path, thing in public_names()}


def _write(path, text):
    # Sphinx reads a page again when its file is newer.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# -- API --


def api_page() -> str:
    """One table of names per room, as the rooms' own ``__all__`` lists them."""
    lines = ["API reference", "=============", ""]
    lines += ["Every public name. The command line is ``diffqa --help``.", ""]
    for room in _rooms():
        title = ROOMS.get(room, room.capitalize())
        module = f"diffqa_features.{room}".rstrip(".")
        lines += [title, "-" * len(title), ""]
        if room:
            summary = inspect.getdoc(getattr(diffqa_features, room)).split("\n\n")[0]
            lines += [f".. module:: {module}", "", summary, ""]
        else:
            lines += [".. module:: diffqa_features", ""]
        inside = {
            path.rpartition(".")[2]: thing
            for path, thing in public_names()
            if path.rpartition(".")[0] == module
        }
        lines += [".. autosummary::", "   :toctree: api", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in inside if has_page(inside[name])] + [""]
        for name, thing in inside.items():
            if not has_page(thing):
                lines += [f".. data:: {name}", "", f"   {_said_of(name, thing)}", ""]
    return "\n".join(lines)


def has_page(thing) -> bool:
    """Whether it is a class or function, with a docstring of its own."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _said_of(name, thing) -> str:
    """The text below a constant, where its file has one."""
    for home in (f"diffqa_features.{_HOMES.get(name, '')}", "diffqa_features.metrics"):
        home = import_module(home.rstrip("."))
        notes = ModuleAnalyzer.for_module(home.__name__).find_attr_docs()
        if vars(home).get(name) is thing and ("", name) in notes:
            return " ".join(notes["", name]).strip()
    return f"``{thing!r}``"


def public_names():
    """Pairs of dotted path and object, in the order of ``__all__``."""
    for room in _rooms():
        module = getattr(diffqa_features, room) if room else diffqa_features
        for name in module.__all__:
            thing = getattr(module, name)
            if not inspect.ismodule(thing):
                yield f"diffqa_features.{room}.{name}".replace("..", "."), thing


def own_members(thing) -> list[str]:
    """Public methods that this package wrote; scikit-learn documents its own."""
    if not inspect.isclass(thing):
        return []
    found = {}
    for parent in reversed(thing.__mro__):
        if parent.__module__.startswith("diffqa_features"):
            for name, member in vars(parent).items():
                written_here = (
                    getattr(inspect.unwrap(getattr(thing, name)), "__module__", "")
                    or ""
                )
                routine = inspect.isroutine(member) or isinstance(member, property)
                if (
                    routine
                    and not name.startswith("_")
                    and written_here.startswith("diffqa_features")
                ):
                    found[name] = None
    return list(found)


def _rooms():
    modules = [
        name
        for name in diffqa_features.__all__
        if inspect.ismodule(getattr(diffqa_features, name))
    ]
    return ["", *sorted(modules, key=lambda name: [*ROOMS, name].index(name))]


# -- weights --


def mirrors_list() -> str:
    """The repositories behind each alias of a backbone, in the order of trial."""
    lines = []
    for alias, mirrors in MIRRORS.items():
        shown = []
        for mirror in mirrors:
            repository, _, commit = mirror.partition("@")
            pin = f"commit ``{commit[:12]}``" if commit else "the original"
            shown.append(f"``{repository}`` ({pin})")
        lines += [f"- ``{alias}``: {', then '.join(shown)}", ""]
    return "\n".join(lines)


# -- studies --


def studies_tables() -> str:
    """A table per study of `diffqa study`: its pairs, and what is published."""
    lines = []
    for name, study in STUDIES.items():
        title = f"``{name}``: {study.title}"
        lines += [title, "~" * len(title), "", f"Paper: {study.reference}.", ""]
        lines += [
            f":class:`~diffqa_features.{study.estimator}`; {study.backbone_text}.",
            "",
            ".. list-table::",
            "   :header-rows: 1",
            "",
        ]
        rows = [("Trained on", "Tested on", "Pair", "Published SRCC, PLCC", "By")]
        for line in study.lines:
            theirs = line.published
            rows.append(
                (
                    title_of(line.train),
                    title_of(line.test) if line.test else "its held-out rows",
                    line.mark,
                    f"{theirs.srcc:.3f}, {theirs.plcc:.3f}" if theirs else "",
                    f"{theirs.mark}: {theirs.source}" if theirs else "",
                )
            )
        for row in rows:
            for i, cell in enumerate(row):
                lines.append(f"   {'  -' if i else '* -'} {cell}".rstrip())
        lines += ["", *(f"- {note}" for note in study.notes), ""]
    return "\n".join(lines)


# -- datasets --


def descriptions() -> list[Dataset]:
    """Every dataset that a file of ``datasets/`` describes, by title."""
    found = [
        value
        for info in pkgutil.iter_modules(datasets.__path__)
        for value in vars(import_module(f"{datasets.__name__}.{info.name}")).values()
        if isinstance(value, Dataset)
    ]
    return sorted(found, key=lambda dataset: dataset.title.lower())


def datasets_table(media: str) -> str:
    """A row per published dataset of ``"images"`` or ``"videos"``."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: datasets",
        "   :widths: 22 8 24 14 20 12",
        "",
    ]
    rows = [("Dataset", "Rows", "Scores", "Official split", "Licence", "Where")]
    for dataset in descriptions():
        if dataset.media != media:
            continue
        loader = f":func:`~diffqa_features.datasets.{dataset.loader}`"
        splits = dataset.parts if dataset.part_column == "split" else ()
        links = [
            f"`{number} <{url}>`__"
            for number, url in enumerate(dataset.url.replace(",", " ").split(), 1)
        ]
        rows.append(
            (
                f"{dataset.title}: {loader}",
                f"{dataset.n_rows:,}" if dataset.n_rows else "",
                "; ".join(map(str, dataset.scores.values())),
                ", ".join(splits) or "none",
                dataset.licence,
                f"{dataset.access} ({', '.join(links)})",
            )
        )
    for row in rows:
        for i, cell in enumerate(row):
            lines.append(
                f"   {'  -' if i else '* -'} {' '.join(cell.split())}".rstrip()
            )
    return "\n".join([*lines, ""])
