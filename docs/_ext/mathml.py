"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

import re
from html import unescape
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

_SPACE = "http://www.w3.org/1998/Math/MathML"
_ACCENTS = "\u02c9\u02c6\u02dc"  # of \bar, \hat and \tilde
_ENTITY = re.compile(r"&(?!lt;|gt;|amp;|#)\w+;")
ElementTree.register_namespace("", _SPACE)


def setup(app):
    """Offer the renderer to Sphinx and choose it."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator, node):
    """Write a formula within a line."""
    translator.body.append(_formula(node))
    raise nodes.SkipNode


def display(translator, node):
    """Write a formula on a line of its own."""
    formula = _formula(node, as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def _formula(node, **options):
    # Spaces come as entities of HTML, which XML does not know.
    text = tex2mathml(node.astext(), **options)
    root = ElementTree.fromstring(_ENTITY.sub(lambda found: unescape(found[0]), text))
    # docutils puts the index of an accented letter below it, as if it were a sum's.
    for stack in root.iter(f"{{{_SPACE}}}munderover"):
        letter, index, accent = stack
        if accent.text in _ACCENTS:
            accented = ElementTree.Element(f"{{{_SPACE}}}mover", accent="true")
            accented.extend([letter, accent])
            stack.tag = f"{{{_SPACE}}}msub"
            stack[:] = [accented, index]
    return ElementTree.tostring(root, encoding="unicode")
