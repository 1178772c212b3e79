"""Text in; what of it is a URL, and the text without what URLs keep secret, out."""

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters: no drive of Windows
_NEXT = re.compile(rf"::(?={_URL.pattern})")  # in a chain of URLs
_PASSWORD = re.compile(r"[^/?#@]*(?<!:):(?!:|\d*([/?#]|$))")  # a port is none
_INSIDE = re.compile(_URL.pattern + r"[^\s'\"<>]*")


def is_url(source: object) -> bool:
    """Whether this is the text of a URL rather than that of a path."""
    return isinstance(source, str) and bool(_URL.match(source))


def redact_url(url: str) -> str:
    """A URL without user, password, query and fragment."""
    return "::".join(map(_redacted, _NEXT.split(url)))


def _redacted(part):
    scheme, mark, rest = part.partition("://")
    if not mark:
        return part
    # A password may hold any sign; where there is none, a path may hold an "@".
    host = rest if _PASSWORD.match(rest) else re.split("[/?#]", rest)[0]
    rest = rest[host.rfind("@") + 1 :]
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


def redact_text(text: str) -> str:
    """A text whose URLs have no user, password and query."""
    return _INSIDE.sub(lambda found: redact_url(found[0]), text)
