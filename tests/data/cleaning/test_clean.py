from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.borders import PART_CHARS, text_parts
from pocketft.data.cleaning.account import CleanReport
from pocketft.data.cleaning.clean import SECTION_CHARS, clean
from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.layout import DataSettings
from pocketft.errors import DataError
from tests.data.cleaning.test_duplicates import prose
from tests.data.secrets.planted import Maker, planted


def document(text: str, source: str = "notes/a.txt", **fields: Any) -> list[Document]:
    return [
        Document(source, part, part=number, last=last, **fields)
        for number, (part, last) in enumerate(text_parts([text]))
    ]


def cleaned(documents: Iterable[Document], **settings: Any) -> tuple[list[Document], CleanReport]:
    report = CleanReport()
    return list(clean(documents, DataSettings(**settings), report)), report


def texts(documents: Iterable[Document]) -> list[str]:
    """Whole texts again, with what must hold of their parts."""
    found: list[str] = []
    whole = True
    for one in documents:
        assert len(one.text) <= PART_CHARS and (one.part == 0) == whole
        found = [*found, one.text] if whole else [*found[:-1], found[-1] + one.text]
        whole = one.last
    assert whole
    return found


def long_text(seed: int, chars: int) -> str:
    draw = random.Random(seed)
    words = [f"{draw.randrange(10**6):x}" for _ in range(chars // 6)]
    return "\n\n".join(" ".join(words[at : at + 60]) for at in range(0, len(words), 60))


def test_repeated_notes_are_learned_once() -> None:
    one, other = " ".join(prose(1)), " ".join(prose(2))
    near = one.replace("harbour", "harvest", 1) + " again"
    found, report = cleaned([*document(one), *document(other), *document(one + "\n"), *document(near)])
    assert texts(found) == [one, other]
    assert (report.duplicates, report.near_duplicates) == (1, 1)
    found, report = cleaned([*document(one), *document(one)], deduplicate=False)
    assert texts(found) == [one, one] and not report.left_out


def test_short_texts_are_left_out_and_counted() -> None:
    found, report = cleaned([*document("Bread."), *document("The lamp was lit.")])
    assert texts(found) == ["The lamp was lit."] and report.too_short == 1
    assert report.notices() == ["left out 1 text shorter than data.min_chars"]
    assert texts(cleaned(document("Bread."), min_chars=0)[0]) == ["Bread."]


@pytest.mark.parametrize("chars", [100, PART_CHARS + 10, SECTION_CHARS + 10, 2 * SECTION_CHARS + PART_CHARS])
def test_a_text_of_any_length_passes_unchanged(chars: int) -> None:
    text = long_text(1, chars)
    found, report = cleaned(document(text))
    assert texts(found) == [text.rstrip()] and not report.left_out


@pytest.mark.parametrize("chars", [2 * PART_CHARS, SECTION_CHARS + PART_CHARS, SECTION_CHARS + 3 * PART_CHARS])
def test_a_text_that_breaks_off_ends_and_the_next_one_begins(chars: int) -> None:
    broken = document(long_text(1, chars))[:-1]
    assert not broken[-1].last
    for following in ([], document("The lamp was lit."), [Document("c.json", turns=(Turn("user", "Hi"),))]):
        found, _ = cleaned([*broken, *following])
        kept = [one for one in found if one.source == "notes/a.txt"]
        assert texts(kept)[0] == "".join(part.text for part in broken).rstrip()
        assert len(found) == len(broken) + len(following)


def test_of_a_longer_second_export_only_the_new_end_is_learned() -> None:
    old = long_text(1, 3 * SECTION_CHARS)
    found, report = cleaned([*document(old), *document(old + "\n\n" + long_text(2, SECTION_CHARS))])
    first, second = texts(found)
    assert first == old.rstrip() and report.near_duplicates + report.duplicates >= 2
    assert len(second) < 2.5 * SECTION_CHARS and second.endswith(long_text(2, SECTION_CHARS)[-100:].rstrip())


def test_a_header_and_a_footer_go_after_ten_notes_and_the_persons_words_stay() -> None:
    head, foot = "From the desk of Ottilie Brankle", "Sent from the phone of Ottilie, please forgive mistakes"
    notes = [
        f"{head}\n\nDay {day}. I like\nlists and bread\n{' '.join(prose(day, 30))}\n-- \n{foot}" for day in range(30)
    ]
    found, report = cleaned(part for note in notes for part in document(note))
    result = texts(found)
    assert result[:9] == notes[:9]
    assert result[-1] == f"Day 29. I like\nlists and bread\n{' '.join(prose(29, 30))}\n--"
    assert report.boilerplate_lines == 2 * (30 - 10)
    assert texts(cleaned((p for n in notes for p in document(n)), drop_boilerplate=False)[0]) == notes


def test_source_code_and_what_few_notes_say_are_no_boilerplate() -> None:
    code = [f"from __future__ import annotations\n\nVALUE_{number} = {number}\n" for number in range(40)]
    assert cleaned(part for text in code for part in document(text, "src/a.py"))[1].boilerplate_lines == 0
    notes = [
        ("Yours faithfully, Anna" if day % 20 == 0 else f"And so on, day {day}") + f"\nmore {day}" for day in range(400)
    ]
    assert cleaned(part for text in notes for part in document(text))[1].boilerplate_lines == 0


def test_places_are_file_and_line_and_no_account_holds_a_secret() -> None:
    make = Maker()
    key, card = "ghp_" + make.chars(36), make.card()
    text = f"One\ntwo\nkey {key}\nfour\n{card}, {card}"
    found, report = cleaned([*document(text), *document(f"A record with {key} here", "b.jsonl", record_line=7)])
    assert texts(found)[0] == "One\ntwo\nkey [API_KEY]\nfour\n[CARD_NUMBER], [CARD_NUMBER]"
    assert report.to_json()["secrets"] == {"API_KEY": 2, "CARD_NUMBER": 2}
    assert report.to_json()["secret_places"] == {
        "API_KEY": ["notes/a.txt:3", "b.jsonl:7"],
        "CARD_NUMBER": ["notes/a.txt:5"],
    }
    assert report.notices() == [
        "replaced by placeholders: 2 API keys (notes/a.txt:3, b.jsonl:7), 2 card numbers (notes/a.txt:5)"
    ]


def test_lines_are_told_as_they_stand_in_the_file_behind_boilerplate_and_in_later_sections() -> None:
    header = "This page was printed by the archive of the harbour office"
    notes = [f"{header}\nDay {day}: {' '.join(prose(day, 5))}\nTel. 030/12345{day:03}" for day in range(20)]
    _, report = cleaned(part for note in notes for part in document(note))
    assert report.boilerplate_lines == 10 and report.places["PHONE"] == ["notes/a.txt:3"]
    long = long_text(3, SECTION_CHARS + 4 * PART_CHARS)
    at = long.rindex("\n\n", 0, -1000)
    _, report = cleaned(document(f"{long[:at]}\nTel. 030/12345678{long[at:]}", first_line=5))
    assert report.places["PHONE"] == [f"notes/a.txt:{long[:at].count(chr(10)) + 6}"]


def test_secrets_in_conversations_go_from_every_field() -> None:
    key = "hf_" + Maker().chars(34)
    calls = [{"function": {"name": "login", "arguments": {"token": key, "tries": 3}}}]
    turns = (Turn("user", f"use {key}"), Turn("assistant", "Done.", {"tool_calls": calls, "thinking": f"{key}?"}))
    tools = ({"name": "login", "description": f"like {key}"},)
    found, report = cleaned([Document("c.jsonl", turns=turns, tools=tools, title=f"on {key}", record_line=3)])
    assert key not in repr(found) and repr(found).count("[API_KEY]") == 5
    assert report.secrets == {"API_KEY": 4} and report.places["API_KEY"] == ["c.jsonl:3"]


def test_keep_learns_them_and_refuse_stops_behind_the_last() -> None:
    key = "hf_" + Maker().chars(34)
    found, report = cleaned(document(f"use {key} here"), secrets="keep")
    assert key in found[0].text and "found and kept" in report.notices()[0]
    with pytest.raises(DataError, match=r"2 API keys \(notes/a.txt:1, b.txt:1\).*--secrets redact") as raised:
        cleaned([*document(f"use {key} here"), *document(f"or {key}", "b.txt")], secrets="refuse")
    assert key not in str(raised.value)


def test_a_private_key_is_found_across_the_border_of_two_sections() -> None:
    pem = Maker().pem()
    for before in range(SECTION_CHARS - 1200, SECTION_CHARS + 400, 200):
        text = long_text(1, before) + "\n" + pem + "\n" + long_text(2, 3000)
        result = texts(cleaned(document(text))[0])[0]
        assert "PRIVATE KEY-" not in result and pem.split("\n")[5] not in result and result.count("[PRIVATE_KEY]") == 1


@given(st.lists(st.tuples(st.text(max_size=80), st.sampled_from(planted())), max_size=5))
def test_no_planted_secret_passes(pieces: list[tuple[str, tuple[str, str, str]]]) -> None:
    text = "\n\n".join(f"{before}\n\n{one[1].format(one[2])}" for before, one in pieces)
    result = "".join(texts(cleaned(document(text), min_chars=0)[0]))
    assert not [one for _, one in pieces if one[2] in result]


def test_memory_stays_flat_over_many_and_long_texts() -> None:
    import tracemalloc

    def many() -> Iterator[Document]:
        for number in range(12):
            yield from document(long_text(number, SECTION_CHARS), f"notes/{number}.txt")
        for number in range(500):
            yield from document(" ".join(prose(number, 40)), f"notes/{number}.md")

    tracemalloc.start()
    for _ in clean(many(), DataSettings(), CleanReport()):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 << 20, f"{peak >> 20} MB on {sys.platform}"


def test_people_who_are_known_by_their_number_only_are_not_told_by_it() -> None:
    report = ReadReport()
    report.people.update({"Anna": 3, "+49 171 1234567": 2})
    assert report.to_json()["people"] == [["Anna", 3], ["[PHONE]", 2]]
