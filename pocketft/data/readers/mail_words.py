"""A person's own words in a mail: what they quoted, their signature and their program's advertisement left out."""

from __future__ import annotations

import re

_ATTRIBUTION = re.compile(
    r"^[ \t]*(?:On|Am|Le|El|Il|Op|Em|Den|Dnia|W dniu)\b.{4,300}?"
    r"\b(?:wrote|schrieb|a écrit|escribió|ha scritto|schreef|escreveu|skrev|napisał\(?a?\)?)\b.{0,120}?:[ \t]*$",
    re.DOTALL,
)
_FORWARDED = re.compile(
    r"^[ \t>]*(?:-{2,} ?(?:Original|Forwarded|Ursprüngliche|Weitergeleitete|Original-|Message d'origine|Mensaje)[^\n]*"
    r"|Begin forwarded message:|Anfang der weitergeleiteten Nachricht:)[ \t]*-*$",
    re.IGNORECASE,
)
_HEADER = re.compile(r"^[ \t*]*(?:From|Von|De|Da|Van|Från)[ *]*:[ *]*\S", re.IGNORECASE)
_NEXT_HEADER = re.compile(
    r"^[ \t*]*(?:Sent|Date|To|Subject|Gesendet|Datum|An|Betreff|Envoyé|À|Objet|Enviado|Para|Asunto|Inviato|Oggetto|"
    r"Verzonden|Aan|Onderwerp)[ *]*:",
    re.IGNORECASE,
)
_ADVERTISEMENT = re.compile(
    r"^(?:Sent from (?:my|Mail for|Outlook|Yahoo|Proton)|Von meinem \S+ gesendet|Envoyé de mon|Enviado desde mi|"
    r"Inviato da|Verstuurd vanaf|Get Outlook for|Gesendet mit|Diese Nachricht wurde von meinem)\b.{0,80}$",
    re.IGNORECASE,
)
_LINES_OF_ATTRIBUTION = 3  # as mail programs wrap it
_LONGEST_ATTRIBUTION = 400
_LONGEST_SIGNATURE = 12
_DIGIT = re.compile(r"\d")


def own_words(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").split("\n")
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if _ends_here(lines, number):
            break
        if line.startswith(">"):
            number += 1
            continue
        if length := _attribution(lines, number):
            number += length
            if not any(later.startswith(">") for later in lines[number:]):  # quoted without marks, to the end
                break
            continue
        kept.append(line.rstrip())
        number += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _ends_here(lines: list[str], number: int) -> bool:
    line = lines[number]
    if line == "-- " or (line.rstrip() == "--" and len(lines) - number <= _LONGEST_SIGNATURE):
        return True
    if _ADVERTISEMENT.match(line.strip()) or _FORWARDED.match(line):
        return True
    return (
        bool(_HEADER.match(line))
        and sum(bool(_NEXT_HEADER.match(later)) for later in lines[number + 1 : number + 6]) > 1
    )


def _attribution(lines: list[str], number: int) -> int:
    """How many lines from here on say who wrote what is quoted below."""
    text = ""
    for length, line in enumerate(lines[number : number + _LINES_OF_ATTRIBUTION], start=1):
        text += ("\n" if text else "") + line
        if len(text) > _LONGEST_ATTRIBUTION:
            return 0
        # A date is what tells "On Monday, … Anna wrote:" from a story.
        if line.rstrip().endswith(":") and _DIGIT.search(text) and _ATTRIBUTION.match(text):
            return length
    return 0
