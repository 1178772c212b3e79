"""Blocks in, one HTML file out, which asks nobody for anything."""

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from diffqa_features import __version__
from diffqa_features._utils.urls import is_url, redact_text

_HERE = Path(__file__).parent


def write_page(path, *, title, settings, blocks, bad):
    """Stream a page to `path`.

    Parameters
    ----------
    path : Path
        File to write.
    title : str
        What the report is about.
    settings : dict
        What the script has to know.
    blocks : iterable of (str, object)
        Names and what JSON can hold; one at a time is in memory.
    bad : list of (str, str)
        Files and reasons; complete when `blocks` has ended.
    """
    # Jinja escapes what stands in the text, and "<" in JSON too, so no name of a file
    # becomes an element or ends a script.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is no number is no JSON either, and would leave the page empty.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    style, script = (
        (_HERE / name).read_text(encoding="utf-8")
        for name in ("style.css", "script.js")
    )
    stream = environment.get_template("page.html").stream(
        title=title,
        settings=settings,
        blocks=blocks,
        bad=bad,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
    )
    with path.open("wb") as file:
        stream.dump(file, encoding="utf-8")


def shown(text):
    """Text that can be encoded, and no secret of a URL.

    What is not UTF-8 in a name becomes ``\\udcff``.
    """
    return redact_text(str(text).encode(errors="backslashreplace").decode())


def name_and_folder(path):
    """What a file is called: its last name, and what it lies in."""
    path = shown(path)
    if is_url(path):
        folder, _, name = path.rpartition("/")
        return {"name": name, "folder": folder}
    place = Path(path)
    return {"name": place.name or path, "folder": place.parent.as_posix()}


def _hash(text):
    """What a content security policy calls this text, the only one that may run."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
