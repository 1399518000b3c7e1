"""Secrets that stand behind their name: `password: …`, `API_KEY=…`, "my password is …", and those inside a URL.

What stands behind such a name is as often a type, a variable or a remark; the rules below say when it is a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pocketft.data.secrets.finding import Finding, looks_random

_PASSWORDS = (
    "password passwd pwd passphrase passcode passwort kennwort contraseña contrasena senha wachtwoord lösenord haslo "
    "hasło пароль 密码 パスワード"
)
_SECRETS = (
    "secret token apikey api_key api-key accesskey access_key access-key private_key auth_key credential signing_key "
    "encryption_key"
)
_WORDS = (
    dict.fromkeys([*_PASSWORDS.split(), "mot de passe"], "PASSWORD")
    | dict.fromkeys([*_SECRETS.split(), "api key", "access key"], "API_KEY")
)  # fmt: skip
# The name, then =, :, := or =>, then a value in quotes or up to white space. After a name: "_2", " for the router".
_BEHIND = re.compile(
    r"""[\w\[\].-]{0,24}["'\]`*_]{0,4}(?:\ (?:for|of|to|für|para|pour)\ (?:[\w.-]+\ ?){1,4})?
    \s{0,3}(?:(?P<sign>:=|=>|==?|:)|\ (?P<is>is|was|ist|lautet|es|est)\b:?)[ \t]*(?:\n[ \t]{0,8})?
    (?P<before>(?:[rbuf]{0,2}["'`*]{1,3})?)(?P<value>[^\s"'`]{4,200})(?P<after>["'`*]{0,3})(?P<rest>[^\n]{0,2})""",
    re.VERBOSE,
)
# Values that say that there is none, as words and as what they contain.
_NOTHING = """none null nil true false undefined required optional hidden unset empty default string str bytes bool int
    text any object varchar char input prompt unknown missing changed expired wrong correct incorrect invalid valid
    protected reset secret same here below above admin root user test changeme redacted masked encrypted hashed
    plaintext n/a never always"""
_NO_VALUE = frozenset(_NOTHING.split())
_PRETENDED = re.compile(
    r"\*{3}|x{4}|\.{3}|…|<|\{\{|\$\{|\$\(|%\(|%s|\[[A-Z_]+\]|your|example|placeholder|dummy|env\b|getenv|environ",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\W\d]*(?:pass|pwd|secret|token|key)[^\W\d]*", re.IGNORECASE)  # of a variable
_CODE = re.compile(
    r"^[\w.]+[(\[]|^(?:self|cls|this|os|args|kwargs|opts|options|config|settings|request|req)\.|\w\.\w+$|^[@&$]"
)
_WORD = re.compile(r"[^\W\d_]+(?:[-_][^\W_]+)*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:@/?#'\"<>]{0,80}:([^\s@/'\"<>]{1,128})@[\w\[]")


def find_passwords(text: str, lower: str) -> Iterator[Finding]:
    """`lower` is the text in lower case, as long as the text."""
    for name, kind in _WORDS.items():
        at = lower.find(name)
        while at >= 0:
            behind = at + len(name)
            match = _BEHIND.match(text, behind)
            if match and (at == 0 or not lower[at - 1].isalpha() or _is_compound(text, at)):
                span = _value(text, at, match, kind)
                if span:
                    yield Finding(kind, *span)
            at = lower.find(name, behind)
    if "://" in text:
        for match in _URL.finditer(text):
            if not _no_value(match[1]):
                yield Finding("PASSWORD", *match.span(1))


def _is_compound(text: str, at: int) -> bool:
    """`dbPassword`, `USERPASSWORD`, "WLAN-Passwort": a name of its own and not the end of another word."""
    return text[at].isupper() or not text[at - 1].islower() or text[at:].startswith(("passw", "kennw", "apikey"))


def _value(text: str, at: int, match: re.Match[str], kind: str) -> tuple[int, int] | None:
    value, start = match["value"], match.start("value")
    quoted = bool(re.search(r"[\"'`*]$", match["before"])) and bool(match["after"])
    if not quoted:
        value = value.rstrip(".,;:)]}>")
        if match["value"].startswith(("(", "[", "{")) or len(value) < 4:
            return None
    if _no_value(value):
        return None
    if kind == "API_KEY":
        plausible = len(value) >= 16 and looks_random(value) and not _CODE.search(value)
    elif match["is"]:
        plausible = quoted or _unlike_a_word(value)
    elif quoted:
        plausible = len(value) >= 5 and not value.startswith(("%", "{", "--"))
    elif _unlike_a_word(value):
        plausible = not _CODE.search(value)
    else:  # a plain word: believed at the end of its line, as in a note or a settings file
        line = text[text.rfind("\n", 0, at) + 1 : start - 2]
        ends = not text[match.end("value") : match.end()].strip(" .\t\r\n")
        plausible = ends and len(value) >= 5 and bool(_WORD.fullmatch(value)) and not re.search(r"[()=]", line)
        plausible = plausible and "\n" not in text[at:start]
    return (start, start + len(value)) if plausible else None


def _unlike_a_word(value: str) -> bool:
    """A digit beside letters, or a sign that neither names nor prose have at that place."""
    if re.search(r"[()\[\]{}|\\]", value):
        return False
    return (any(c.isdigit() for c in value) and len(value) >= 5) or bool(
        re.search(r"\w[!#$%&^~?+]+\w|[!#$%^~]$", value)
    )


def _no_value(value: str) -> bool:
    bare = value.strip("-_.,;:!?*<>()[]{}").lower()
    return bare in _NO_VALUE or len(set(bare)) < 3 or bool(_PRETENDED.search(value) or _NAME.fullmatch(bare))
