"""``.. markdown-file:: path``: a Markdown file of the repository, on a page."""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from markdown_it import MarkdownIt


def setup(app):
    """Offer the directive to Sphinx."""
    app.add_directive("markdown-file", MarkdownFile)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class MarkdownFile(Directive):
    """The file without its title, which the page has already.

    Its headings are no sections of the page, and its links must not be relative.
    """

    required_arguments = 1

    def run(self):
        """Read and convert the file."""
        env = self.state.document.settings.env
        name, path = env.relfn2path(self.arguments[0])
        env.note_dependency(name)
        text = Path(path).read_text(encoding="utf-8")
        title, _, rest = text.partition("\n")
        if not title.startswith("# "):
            raise self.error(f"{name} must begin with a title.")
        parser = MarkdownIt("commonmark").enable("table")
        html = parser.render(rest).replace("<table>", '<table class="table">')
        # Below the section of the page that holds them.
        for level in (4, 3, 2):
            for mark in ("<", "</"):
                html = html.replace(f"{mark}h{level}>", f"{mark}h{level + 1}>")
        return [nodes.raw("", html, format="html")]
