"""Numbers that mean a person: payment cards and IBANs, proved by their checksums, and phone numbers, by their shape."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pocketft.data.secrets.finding import Finding

# In one run, or in the groups that are printed on cards.
_CARD = re.compile(
    r"(?<![\w.,/+=\\-])(?:\d{13,19}|\d{4}([ \u00a0-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3\d{3}([ \u00a0-])\d{6}\2\d{4,5})"
    r"(?![\w=%+]|[.,/-]\d)"
)
# Any run of digits long enough, with the separators that people write; what it is, is judged afterwards.
_RUN = re.compile(r"(?<![\w.,/+=\\-])(?:\+|00)?[(]?\d(?:[ \u00a0\u202f.()/-]{0,2}\d){6,20}(?![\w%=+-]|[.,/]\d)")
_SEPARATORS = re.compile(r"[ \u00a0-]")

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \u00a0-]?[A-Z0-9]{4}){2,7}(?:[ \u00a0-]?[A-Z0-9]{1,3})?(?![a-z0-9])"
)
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip

_PHONE_WORD = re.compile(
    r"(?:\b(?:tel|phone|telephone|telefon\w*|mobil\w*|handy|cell|fax|call|text|whatsapp|signal|ring|sms|nummer|dial|móvil|"
    r"tél|rufnummer|durchwahl|contact|☎|📞|📱)\b|[☎📞📱])[^\n\d]{0,24}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d\d[-./ ]\d\d?[-./ ]\d\d?\b|\d\d?[-./]\d\d?[-./](?:19|20)\d\d\b|\d\d\d\d-\d\d\d\d$")
_AMERICAN = re.compile(r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")


def find_numbers(text: str) -> Iterator[Finding]:
    for match in _IBAN.finditer(text):
        end = _iban_end(match[0])
        if end:
            yield Finding("IBAN", match.start(), match.start() + end)
    runs = list(_RUN.finditer(text))
    if any(len(match[0]) >= 13 for match in runs):
        for match in _CARD.finditer(text):
            if is_card_number(_SEPARATORS.sub("", match[0])):
                yield Finding("CARD_NUMBER", *match.span())
    for match in runs:
        for run in _shorter(match[0]):
            if _is_phone(run, text, match.start()):
                yield Finding("PHONE", match.start(), match.start() + len(run))
                break


def is_card_number(digits: str) -> bool:
    """Of an issuer that exists, and with Luhn's check digit."""
    return digits.isascii() and _issued(digits) and luhn_checks(digits)


def luhn_checks(digits: str) -> bool:
    total = 0
    for index, character in enumerate(reversed(digits)):
        value = int(character)
        if index % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0 and len(set(digits)) > 2


def iban_checks(compact: str) -> bool:
    """ISO 13616: moved around and read as a number in base 36, the remainder modulo 97 is 1."""
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _iban_end(written: str) -> int:
    """How many characters of a candidate are an IBAN; a word in capitals may follow it and seem to belong to it."""
    length = _IBAN_LENGTHS.get(written[:2], 0)
    count = 0
    for index, character in enumerate(written):
        count += character.isalnum()
        if count == length and length:
            behind = written[index + 1 : index + 2]
            compact = re.sub(r"[^A-Z0-9]", "", written[: index + 1])
            return index + 1 if not behind.isalnum() and iban_checks(compact) else 0
    return 0


def _issued(digits: str) -> bool:
    """The first digits and lengths of the networks that issue payment cards."""
    first, length = int(digits[:4]) if len(digits) >= 13 else 0, len(digits)
    return (
        (4000 <= first <= 4999 and length in (13, 16, 19))  # Visa
        or ((5100 <= first <= 5599 or 2221 <= first <= 2720) and length == 16)  # Mastercard
        or (first // 100 in (34, 37) and length == 15)  # American Express
        or ((first == 6011 or 6440 <= first <= 6599) and length in (16, 19))  # Discover
        or ((first // 100 in (36, 38, 39) or 3000 <= first <= 3059) and length == 14)  # Diners
        or (3528 <= first <= 3589 and 16 <= length <= 19)  # JCB
        or (6200 <= first <= 6299 and 16 <= length <= 19)  # UnionPay
        or ((first // 100 in (50, 56, 57, 58, 63, 67)) and length in (16, 18, 19))  # Maestro
    )


def _shorter(run: str) -> Iterator[str]:
    """The run, and where it is too long for a phone number, without the groups behind it: a time, another number."""
    yield run
    while sum(map(str.isdigit, run)) > 15 and (shorter := re.match(r"(.*\d)[ /\u00a0]+[\d().-]+\Z", run)):
        run = shorter[1]
        yield run


def _is_phone(run: str, text: str, start: int) -> bool:
    digits = re.sub(r"\D", "", run)
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 3 or run.count("(") != run.count(")"):
        return False
    if run.startswith("+"):
        return digits[0] != "0" and len(digits) >= 8
    if _DATE.match(run):
        return False
    if _AMERICAN.fullmatch(run):
        return True
    if _PHONE_WORD.search(text[max(0, start - 48) : start]):
        return True
    separated = len(re.findall(r"[ \u00a0\u202f/()-]+", run))
    if run.startswith("00"):
        return len(digits) >= 11 and separated >= 1
    # A national number: 0 and an area code, then one to five groups of two and more digits.
    groups = re.findall(r"\d+", run)
    national = run.lstrip("(").startswith("0") and digits[1] != "0" and len(groups[0]) >= 2
    return national and 9 <= len(digits) <= 12 and 1 <= separated <= 5 and min(map(len, groups)) >= 2 and "." not in run
