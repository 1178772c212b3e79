"""Results in; a tidy frame that prints, exports and records what was compared out."""

import io
import json
from itertools import takewhile

import pandas as pd

from diffqa_features._utils.files import local_path, write_whole
from diffqa_features._utils.tables import quote_formulas as quoted
from diffqa_features._utils.tables import read_csv

_DIGITS = 4
_NAMES = (
    "method", "baseline", "train", "test", "test_set", "metric", "setting", "changed",
    "stage",
)  # fmt: skip
"""Columns of names: text, whatever it looks like."""


class EvaluationTable:
    """Result of a study: a tidy frame, and what was compared.

    Returned by the functions of :mod:`diffqa_features.evaluation`.

    Parameters
    ----------
    frame : DataFrame
        One row per reported number.
    facts : dict of str to str
        What was compared: estimators, data, splits, seed, software.
    scores : DataFrame, default=None
        One row per method, split and metric: columns ``method``, ``train``, ``test``,
        ``split``, ``metric``, ``value``, ``n_train``, ``n_test``.
    predictions : DataFrame, default=None
        One row per prediction: columns ``method``, ``train``, ``test``, ``split``,
        ``row`` (position in the test data), ``group``, ``y_true``, ``y_pred`` (in the
        direction of ``y_true``) and ``y_aligned`` (after the logistic, if one was
        requested and ``plcc`` or ``rmse`` is reported).

    See Also
    --------
    compare : Tests whether the methods of a table differ.

    Examples
    --------
    >>> import pandas as pd
    >>> from diffqa_features.evaluation import EvaluationTable
    >>> frame = pd.DataFrame({"method": ["A", "B"], "srcc": [0.81234, 0.7]})
    >>> table = EvaluationTable(frame, {"data": "ten pictures"})
    >>> print(table)
    data: ten pictures
    <BLANKLINE>
    method   srcc
         A 0.8123
         B 0.7000
    >>> print(table.to_markdown())
    | method | srcc |
    | --- | --- |
    | A | 0.8123 |
    | B | 0.7000 |
    <BLANKLINE>
    - data: ten pictures
    """

    def __init__(self, frame, facts, *, scores=None, predictions=None):
        self.frame = frame
        self.facts = dict(facts)
        self.scores = scores
        self.predictions = predictions

    def __repr__(self):
        shown = _texts(self.frame).to_string(index=False)
        return "\n".join([*_fact_lines(self.facts), "", shown])

    def _repr_html_(self):
        shown = _texts(self.frame).to_html(index=False)
        return shown + pd.DataFrame(
            {"": list(self.facts.values())}, index=list(self.facts)
        ).to_html(header=False)

    def to_csv(self, path=None, *, quote_formulas=False):
        """Write the frame as CSV in full precision, after the facts as ``#`` comments.

        Parameters
        ----------
        path : str or path, default=None
            File to write; ``None`` returns the text instead.
        quote_formulas : bool, default=False
            Put ``'`` before text that starts with ``=``, ``+``, ``-`` or ``@``, such as
            a method's name: spreadsheets would run it as a formula. Numbers are not
            changed. The ``'`` is still there when the file is read back.

        Returns
        -------
        str or None
            The text if `path` is None.
        """
        facts = {_quoted_name(str(name)): self.facts[name] for name in self.facts}
        lines = [f"# {line}\n" for line in _fact_lines(facts)]
        frame = self.frame
        if quote_formulas:
            frame = frame.map(quoted).rename(columns=quoted)
        return _deliver("".join(lines) + frame.to_csv(index=False), path)

    @classmethod
    def from_csv(cls, path):
        """Read a file written by :meth:`to_csv`.

        Parameters
        ----------
        path : str or path
            File to read.

        Returns
        -------
        EvaluationTable
            A table with `frame` and `facts` only.
        """
        path = local_path(path, "The 'path' parameter")
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            comments = list(takewhile(lambda line: line.startswith("# "), lines))
            facts = dict(_read_fact(line[2:].rstrip("\n")) for line in comments)
            table = io.StringIO("".join(lines[len(comments) :]), newline="")
            # A method may be called "null", or "007".
            frame = read_csv(
                table,
                dtype=dict.fromkeys(_NAMES, str),
                keep_default_na=False,
                na_values=[""],
            )
            names = [name for name in _NAMES if name in frame]
            return cls(frame.assign(**frame[names].fillna("")), facts)
        except ValueError as error:
            raise ValueError(
                f"'{path}' is not a table that to_csv wrote, or is damaged: {error}"
            ) from error

    def to_markdown(self, path=None, *, digits=_DIGITS):
        """Write a Markdown table, followed by the facts.

        Parameters
        ----------
        path : str or path, default=None
            File to write; ``None`` returns the text instead.
        digits : int, default=4
            Number of decimals.

        Returns
        -------
        str or None
            The text if `path` is None.
        """
        frame = _texts(self.frame, digits)
        rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.values.tolist()]
        lines = [
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
            for row in rows
        ]
        facts = [f"- {line}" for line in _fact_lines(self.facts)]
        return _deliver("\n".join([*lines, "", *facts]), path)

    def to_latex(self, path=None, *, digits=_DIGITS):
        """Write a LaTeX ``tabular`` with booktabs rules.

        Parameters
        ----------
        path : str or path, default=None
            File to write; ``None`` returns the text instead.
        digits : int, default=4
            Number of decimals.

        Returns
        -------
        str or None
            The text if `path` is None. The facts precede it as comments.
        """
        shown = _texts(self.frame, digits)
        numeric = [pd.api.types.is_numeric_dtype(t) for t in self.frame.dtypes]
        columns = "".join("r" if number else "l" for number in numeric)
        rows = [
            " & ".join(_escape(str(cell)) for cell in row) + r" \\"
            for row in [list(shown.columns), *shown.values.tolist()]
        ]
        lines = [
            *(f"% {line}" for line in _fact_lines(self.facts)),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return _deliver("\n".join(lines), path)


def _texts(frame, digits: int = _DIGITS):
    """Every cell as printed text."""
    return pd.DataFrame(
        {name: [_text(cell, digits) for cell in frame[name]] for name in frame.columns}
    )


def _text(cell, digits: int) -> str:
    if cell is None or cell is pd.NA or cell != cell:
        return ""
    if isinstance(cell, float):
        small = 0 < abs(cell) < 10**-digits
        return f"{cell:.1e}" if small else f"{cell:.{digits}f}"
    return " ".join(str(cell).split())


def _fact_lines(facts) -> list[str]:
    return [f"{name}: {' '.join(str(value).split())}" for name, value in facts.items()]


def _quoted_name(name: str) -> str:
    """The name as it is, or in JSON's quotes if it could not be read back."""
    plain = ": " not in name and name[:1] != '"' and name.splitlines() == [name]
    return name if plain else json.dumps(name)


def _read_fact(line: str) -> tuple[str, str]:
    if line.startswith('"'):
        name, end = json.JSONDecoder().raw_decode(line)
        return name, line[end + 2 :]
    name, _, value = line.partition(": ")
    return name, value


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _deliver(text: str, path):
    if path is None:
        return text
    write_whole(local_path(path, "The 'path' parameter"), text)
    return None
