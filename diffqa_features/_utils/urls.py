"""Text in; what of it is a URL, and the text without what URLs keep secret, out."""

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters: no drive of Windows
_INSIDE = re.compile(_URL.pattern + r"[^\s'\"<>]*")


def is_url(source: object) -> bool:
    """Whether this is the text of a URL rather than that of a path."""
    return isinstance(source, str) and bool(_URL.match(source))


def redact_url(url: str) -> str:
    """A URL without user, password and query."""
    parts = []
    for part in url.split("::"):
        scheme, mark, rest = part.partition("://")
        if mark:
            host, slash, path = rest.partition("?")[0].partition("/")
            part = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
        parts.append(part)
    return "::".join(parts)


def redact_text(text: str) -> str:
    """A text whose URLs have no user, password and query."""
    return _INSIDE.sub(lambda found: redact_url(found[0]), text)
