"""E-mail addresses. Those of the domains that are set aside for examples (RFC 2606) are nobody's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pocketft.data.secrets.finding import Finding

_BEFORE = re.compile(r"[\w.!#$%&+=~'-]{1,64}\Z")
_AFTER = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}[^\W\d_]{2,24}(?![\w@(])")
_NOBODY = re.compile(
    r"(?:.*\.)?(?:example(?:\.(?:com|org|net|edu))?|.*\.(?:example|invalid|test|local|localhost|png|jpe?g|gif|svg|py|js|css))",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"://[^\s/]*:\Z")  # scheme://name:password@host
_ROBOTS = ("git", "noreply", "no-reply", "hg", "svn")
_LONGEST_LOCAL = 64


def find_addresses(text: str) -> Iterator[Finding]:
    at = text.find("@")
    while at >= 0:
        # Slices around the sign: an expression that begins with the name would try every word of the text.
        name = _BEFORE.search(text[max(0, at - _LONGEST_LOCAL) : at])
        domain = _AFTER.match(text, at + 1, at + 260) if name else None
        if name and domain:
            local = name[0].lstrip(".'=&#!")
            start = at - len(local)
            inside_url = text[max(0, start - 1) : start] == ":" and _LOGIN.search(text[max(0, start - 100) : start])
            if local and local.lower() not in _ROBOTS and not inside_url and not _NOBODY.fullmatch(domain[0]):
                yield Finding("EMAIL", start, domain.end())
        at = text.find("@", at + 1)
