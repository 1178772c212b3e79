"""Every public docstring: numpydoc's rules, and defaults as in the signature."""

import ast
import inspect
import re
import types

import pytest
from numpydoc.docscrape import FunctionDoc
from numpydoc.validate import validate

import diffqa_features

IGNORED = {
    "GL01",  # the summary stands on the opening line: one line less on every screen
    "ES01",  # no extended summary where the summary says it all
    "SA01",  # no See Also where there is nothing worth seeing
    "EX01",  # examples: asked of classes only, by test_classes_have_an_example
    "SS03",  # a metric's summary may be the question that it answers
    "SS05",  # takes every plural for a verb: "Names of the columns" is a summary
    "RT02",  # a single returned Bunch is easier to write about by a name
    "RT03",  # a returned array that the summary and its type line describe is described
    "PR08",  # a description may begin with a lower-case code word
    "PR09",  # a description may end in a formula or a list
}


def public_objects():
    """Names, as users type them, and what they are; modules give their own names."""
    for name in diffqa_features.__all__:
        thing = getattr(diffqa_features, name)
        if not isinstance(thing, types.ModuleType):
            yield f"diffqa_features.{name}", thing
            continue
        for inner in thing.__all__:
            yield f"diffqa_features.{name}.{inner}", getattr(thing, inner)


def with_methods(objects):
    for path, thing in objects:
        yield path, thing
        if not inspect.isclass(thing):
            continue
        for name in vars(thing):
            # scikit-learn writes set_*_request and their docstrings itself.
            if not (name.startswith("_") or name.endswith("_request")):
                yield f"{path}.{name}", getattr(thing, name)


OBJECTS = {
    path: thing
    for path, thing in with_methods(public_objects())
    if inspect.isclass(thing) or inspect.isroutine(thing)
}
CLASSES = {path: thing for path, thing in OBJECTS.items() if inspect.isclass(thing)}


@pytest.mark.parametrize("path", OBJECTS)
def test_numpydoc_rules(path):
    errors = [
        f"{code}: {message}"
        for code, message in validate(path)["errors"]
        if code not in IGNORED
    ]
    assert errors == []


@pytest.mark.parametrize("path", OBJECTS)
def test_parameters_and_defaults_are_those_of_the_signature(path):
    documented, actual = documented_defaults(OBJECTS[path]), defaults(OBJECTS[path])
    assert list(documented) == list(actual)
    assert documented == actual


@pytest.mark.parametrize("path", CLASSES)
def test_classes_have_an_example(path):
    assert ">>> " in inspect.getdoc(CLASSES[path])


@pytest.mark.parametrize("path", OBJECTS)
def test_section_underlines_are_as_long_as_their_titles(path):
    # numpydoc reads a shorter underline as text and then misses the whole section.
    doc = inspect.getdoc(OBJECTS[path])
    for title, underline in re.findall(r"^([A-Z][A-Za-z ]+)\n(-{3,})$", doc, re.M):
        assert len(title) == len(underline), title


def defaults(thing):
    """{parameter: its default, or the marker for none} in the signature's order."""
    found = {}
    for parameter in inspect.signature(thing).parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        name = stars.get(parameter.kind, "") + parameter.name
        if name != "self":
            found[name] = parameter.default
    return found


def documented_defaults(thing):
    """The same from the docstring's type lines, `name : type, default=value`."""
    found = {}
    for parameter in FunctionDoc(None, doc=inspect.getdoc(thing))["Parameters"]:
        _, given, value = parameter.type.partition("default=")
        for name in parameter.name.split(", "):
            found[name] = read_value(value) if given else inspect.Parameter.empty
    return found


def read_value(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


class TestTheReaders:
    """The two readers above, on cases worked out by hand."""

    @staticmethod
    def right(a, b=("x", "y"), *, c=None):
        """Do it.

        Parameters
        ----------
        a : int
            One.
        b : tuple of str, default=("x", "y")
            Two.
        c : {"p", "q"} or None, default=None
            Three.
        """

    @staticmethod
    def wrong(a, verbose=False):
        """Do it.

        Parameters
        ----------
        a : int
            One.
        verbose : bool, default=True
            Two.
        """

    def test_agreement_is_seen(self):
        empty = inspect.Parameter.empty
        assert defaults(self.right) == {"a": empty, "b": ("x", "y"), "c": None}
        assert documented_defaults(self.right) == defaults(self.right)

    def test_drift_is_seen(self):
        assert documented_defaults(self.wrong) != defaults(self.wrong)
