"""Keys that say what they are: the formats in which services issue keys and tokens, and armoured private keys.

A format is looked for only in a text that holds one of its anchors: `in` runs at gigabytes a second, a regular
expression at tens of megabytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pocketft.data.secrets.finding import Finding, looks_random


@dataclass(frozen=True)
class _Format:
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]  # its last group, where it has one, is the key
    kind: str = "API_KEY"
    random: bool = False  # the format alone is also that of ordinary names


def _format(anchors: str, pattern: str, kind: str = "API_KEY", random: bool = False) -> _Format:
    # No look-behind: an expression that begins with plain characters is searched for many times faster.
    return _Format(tuple(anchors.split()), re.compile(pattern, re.ASCII), kind, random)


_FORMATS = (
    _format("sk-", r"sk-[\w-]{20,}", random=True),  # OpenAI, Anthropic, OpenRouter and those who copy them
    _format("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{30,}"),
    _format("github_pat_", r"github_pat_\w{22,}"),
    _format("glpat- gldt- glrt- glcbt- glptt- glft- glsoat-", r"gl(?:pat|dt|rt|cbt|ptt|ft|soat)-[\w.-]{20,}"),
    _format("xox xapp-", r"(?:xox[a-z]|xapp)-(?:\d-)?[A-Za-z0-9-]{10,}", random=True),
    _format("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/(\w+/\w+/\w{8,})"),
    _format("/api/webhooks/", r"discord(?:app)?\.com/api/webhooks/(\d{8,}/[\w-]{30,})"),
    _format("AIza", r"AIza[\w-]{30,}"),
    _format("GOCSPX-", r"GOCSPX-[\w-]{20,}"),
    _format("ya29.", r"ya29\.[\w-]{20,}", "TOKEN"),
    _format("AKIA ASIA ABIA ACCA", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
    _format("k_live_ k_test_ whsec_", r"(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9+/=]{16,}"),
    _format("SG.", r"SG\.[\w-]{16,32}\.[\w-]{16,64}"),
    _format("SK", r"SK[0-9a-f]{32}(?![A-Za-z0-9])"),
    _format("key-", r"key-[0-9a-f]{32}(?![A-Za-z0-9])"),
    _format("-us1 -us2 -us3 -us4 -us5 -us6 -us7 -us8 -us9", r"[0-9a-f]{32}-us\d{1,2}(?!\d)"),
    _format("npm_", r"npm_[A-Za-z0-9]{30,}"),
    _format("pypi-", r"pypi-[\w-]{50,}"),
    _format("hf_", r"hf_[A-Za-z0-9]{30,}"),
    _format("dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[0-9a-f]{40,}"),
    _format("shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}"),
    _format("sq0", r"sq0[a-z]{3}-[\w-]{20,}"),
    _format("dapi", r"dapi[0-9a-f]{32}(?:-\d)?"),
    _format("lin_api_ gsk_ pplx- xai- nvapi- r8_ tvly-", r"(?:lin_api_|gsk_|pplx-|xai-|nvapi-|r8_|tvly-)[\w-]{24,}"),
    _format("ntn_ secret_", r"(?:ntn|secret)_[A-Za-z0-9]{40,}", random=True),
    _format("hvs. hvb. dckr_pat_ figd_ ATATT3", r"(?:hv[sb]\.|dckr_pat_|figd_|ATATT3)[\w=-]{20,}"),
    _format("PMAK- NRAK- glsa_ sntrys_ rubygems_", r"(?:PMAK-|NRAK-|glsa_|sntrys_|rubygems_)[\w-]{24,}"),
    _format("AccountKey= SharedAccessKey=", r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,}={0,2})"),
    _format(":AA", r"\d{8,10}:AA[\w-]{30,}"),  # Telegram bots
    _format(
        ".", r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,38}(?![\w-])", "TOKEN", random=True
    ),  # Discord bots: a number in Base64, so it begins with one of three letters
    _format("eyJ", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*(?:\.[\w-]+)*", "TOKEN"),  # JSON Web Token, RFC 7519
    _format("AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{50,}", "PRIVATE_KEY"),
    _format("xprv yprv zprv", r"[xyz]prv[1-9A-HJ-NP-Za-km-z]{100,}", "PRIVATE_KEY"),
)

_LONG_WORD = re.compile(r"\S{16}")
_AUTHORIZATION = re.compile(r"\b(?:bearer|basic|authorization: *\w+) +([\w.~+/-]{16,}={0,2})", re.ASCII | re.IGNORECASE)
_ARMOUR = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----")
_PUTTY = re.compile(r"(?<=Private-Lines: )\d+\s+(?:[A-Za-z0-9+/=]+\s*)+")
_KEY_BODY = re.compile(r"(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]+: [^\n]*|[A-Za-z0-9+/=]+(?=\s*(?:$|\n))|[\s>*#|\\\"',n]+)+")
_WIF = re.compile(r"[5KL][1-9A-HJ-NP-Za-km-z]{50,51}(?![A-Za-z0-9])")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def find_keys(text: str, lower: str) -> Iterator[Finding]:
    """`lower` is the text in lower case."""
    if not _LONG_WORD.search(text) and "PRIVATE KEY" not in text:  # most chat messages
        return
    for form in _FORMATS:
        if not any(anchor in text for anchor in form.anchors):
            continue
        for match in form.pattern.finditer(text):
            if _goes_on(text, match.start()):
                continue
            start, end = match.span(match.lastindex or 0)
            if not form.random or looks_random(text[start:end]):
                yield Finding(form.kind, start, end)
    if "bearer" in lower or "basic" in lower or "authorization" in lower:
        for match in _AUTHORIZATION.finditer(text):
            if looks_random(match[1]):
                yield Finding("TOKEN", *match.span(1))
    if "PRIVATE KEY" in text:
        yield from _armoured(text)
    if "Private-Lines: " in text:
        yield from (Finding("PRIVATE_KEY", *match.span()) for match in _PUTTY.finditer(text))
    for match in _WIF.finditer(text):
        if not _goes_on(text, match.start()) and _base58_checks(match[0]):
            yield Finding("PRIVATE_KEY", *match.span())


def open_armour(text: str) -> bool:
    """Whether a private key begins in `text` that does not end in it."""
    at = text.rfind("-----BEGIN ")
    return at >= 0 and "PRIVATE KEY" in text[at : at + 64] and "-----END " not in text[at:]


def _goes_on(text: str, at: int) -> bool:
    """Whether the word that holds `at` began before it."""
    return at > 0 and text[at - 1].isalnum() and text[at - 1].isascii()


def _armoured(text: str) -> Iterator[Finding]:
    at = 0
    while match := _ARMOUR.search(text, at):
        closing = f"-----END {match[1]}-----"
        end = text.find(closing, match.end())
        if 0 <= end - match.end() < 100_000:
            at = end + len(closing)
        else:  # torn: all that still looks like a key's body
            body = _KEY_BODY.match(text, match.end())
            at = len(text[: body.end()].rstrip()) if body else match.end()
        yield Finding("PRIVATE_KEY", match.start(), at)


def _base58_checks(word: str) -> bool:
    """The last four bytes of a Bitcoin key are a checksum of the others (Base58Check)."""
    number = 0
    for character in word:
        number = number * 58 + _BASE58.index(character)
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]
