"""Every kind of file gives the documents that a person would expect of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketft.data.readers import markdown
from pocketft.data.sources import SourceFile
from pocketft.errors import MemoryCapError
from tests.data.readers import samples
from tests.data.readers.reading import only, read, read_one, said
from tests.data.readers.samples import SAMPLES

KINDS = [(kind, name, content) for kind, files in SAMPLES.items() for name, content in files]


@pytest.mark.parametrize(("kind", "name", "content"), KINDS, ids=[f"{kind}-{name}" for kind, name, _ in KINDS])
def test_a_file_is_known_by_its_content(tmp_path: Path, kind: str, name: str, content: bytes) -> None:
    documents, report = read_one(tmp_path, name, content)
    assert documents and report.files == {kind: 1} and not report.files_skipped and not report.damaged
    assert report.documents[kind] == len(documents) and report.characters[kind] > 10


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("mail", samples.MBOX),
        ("telegram", samples.TELEGRAM),
        ("discord", samples.DISCORD),
        ("chatgpt", samples.CHATGPT),
        ("claude", samples.CLAUDE),
        ("json", samples.SHAREGPT),
        ("jsonl", samples.OPENAI),
        ("whatsapp", samples.WHATSAPP_ANDROID),
        ("html", samples.HTML),
        ("org", samples.ORG),
        ("markdown", samples.OBSIDIAN),
        ("docx", samples.DOCX),
        ("epub", samples.EPUB),
        ("pdf", samples.PDF),
    ],
)
def test_the_name_is_not_needed(tmp_path: Path, kind: str, content: bytes) -> None:
    assert read_one(tmp_path, "export.bin", content)[1].files == {kind: 1}


def test_obsidian_links_show_their_words_and_attachments_go(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "boat.md", samples.OBSIDIAN)[0])
    assert document.title == "The boat"
    assert document.text == (
        "# The boat\n\nWe painted it with Ben and read Knots.\n\n"
        "See the list and [the shop](https://example.org/paint).\n\n\n```md\n[[stays as it is]]\n```"
    )


def test_comments_over_several_lines_go_and_percent_signs_stay(tmp_path: Path) -> None:
    def text(*lines: str) -> str:
        return only(read_one(tmp_path, "note.md", "\n".join(lines).encode())[0]).text

    assert text("# A", "%%", "not for others", "```", "code", "```", "%%", "Words.") == "# A\nWords."
    assert text("# A", "%% not", "for others %%", "Words.") == "# A\nWords."
    for line in ("It shows 100%% when done.", "It stops at 100%%", "%% opened and never closed"):
        assert text("# A", line, "All of this stays.", "```", "[[code]]", "```") == (
            f"# A\n{line}\nAll of this stays.\n```\n[[code]]\n```"
        )


def test_a_comment_without_end_is_held_no_longer_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markdown, "MAX_COMMENT_CHARS", 20)
    documents, _ = read_one(tmp_path, "note.md", b"%%\none line\n another line\n%%\nthe rest")
    assert only(documents).text == "%%\none line\n another line\n%%\nthe rest"


def test_notion_properties_and_page_ids_go(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, *samples.SAMPLES["markdown"][1])[0])
    assert document.text == "# Reading list\n\n\nA page about Middlemarch."


def test_org_keeps_the_text_and_drops_the_bookkeeping(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "garden.org", samples.ORG)[0])
    assert document.title == "Garden"
    assert "see the guide." in document.text and 'print("stays")' in document.text
    for gone in ("#+TITLE", ":ID:", "SCHEDULED", "file:soil"):
        assert gone not in document.text


def test_html_reads_as_it_looks(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "bread.html", samples.HTML)[0])
    assert document.title == "Bread & salt"
    assert document.text == (
        "Bread\n\nMix the flour, the water — and wait.\n\n- Flour\n- Water\n\n  500 g\n  350 g\n\nDone\ntoday."
    )


def test_word_documents_keep_lists_and_tables_and_drop_what_was_deleted(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "report.docx", samples.DOCX)[0])
    assert document.text == "The report\n\n- first\nkept\n\na\tb"


def test_a_book_has_its_chapters_in_reading_order(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "lamp.epub", samples.EPUB)[0])
    assert (document.title, document.text) == ("The Lamp", "One\n\nIt was lit.\n\nTwo\n\nIt went out.")


def test_lines_of_a_pdf_are_joined_to_sentences(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "keeper.pdf", samples.PDF)[0])
    assert document.text == "The keeper wrote every day, and the sea did not answer.\nHe went on."


def test_without_the_extra_a_pdf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketft.data.readers.pdf.find_spec", lambda name: None)
    documents, report = read_one(tmp_path, "keeper.pdf", samples.PDF)
    assert not documents
    assert report.files_skipped == {'PDF document; to read it: pip install "pocketft[documents]"': 1}


@pytest.mark.parametrize("name", ["bundle.min.js", "package-lock.json", "made.py"])
def test_code_that_programs_wrote_is_skipped(tmp_path: Path, name: str) -> None:
    content = b"# Generated by protoc. DO NOT EDIT!\nx = 1\n" if name == "made.py" else b"var a=1;" * 1000
    documents, report = read_one(tmp_path, name, content)
    assert not documents and sum(report.files_skipped.values()) == 1


def test_a_table_is_read_by_the_column_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("day;what\n1;Snow\n2;\n3;Rain\n")
    documents, report = read(tmp_path / "a.csv")
    assert not documents
    assert report.skipped[0].reason == "table: name the column to read with --column (columns: day, what)"
    assert [d.text for d in read(tmp_path / "a.csv", column="What")[0]] == ["Snow", "Rain"]
    assert (
        "table without a column mood (columns: day, what)" in read(tmp_path / "a.csv", column="mood")[1].files_skipped
    )


def test_a_row_of_a_table_is_found_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('day,text\n1,"Two\nlines"\n\n2,"A row on line five"\n')
    documents, _ = read(tmp_path / "a.csv")
    assert [(d.text, d.record_line) for d in documents] == [("Two\nlines", 2), ("A row on line five", 5)]


def test_a_table_of_questions_and_answers_becomes_chats(tmp_path: Path) -> None:
    documents, _ = read_one(tmp_path, "a.csv", b"id,prompt,completion\n1,2+2?,4\n")
    assert said(only(documents)) == [("user", "2+2?"), ("assistant", "4")]


def test_sharegpt_and_alpaca_become_chats(tmp_path: Path) -> None:
    first, second = read_one(tmp_path, "s.json", samples.SHAREGPT)[0]
    assert said(first) == [("user", "Hi"), ("assistant", "Hello")] and said(second)[0] == ("system", "Be brief.")
    first, second = read_one(tmp_path, "a.json", samples.ALPACA)[0]
    assert said(first) == [("user", "Translate.\n\nBrot"), ("assistant", "bread")]
    assert said(second)[0] == ("user", "Say yes.")


def test_chatgpt_is_read_along_the_branch_that_was_shown(tmp_path: Path) -> None:
    documents, report = read_one(tmp_path, "conversations.json", samples.CHATGPT)
    document = only(documents)
    assert said(document) == [("user", "How long does dough rest?"), ("assistant", "About two hours.")]
    assert (document.title, document.time_s) == ("Bread", 1700000000.123)
    assert report.remarks == {"conversations without an answer, left out": 1}


def test_claude_is_read_without_its_thoughts(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "conversations.json", samples.CLAUDE)[0])
    assert said(document) == [("user", "Which knot?"), ("assistant", "A bowline.")]
    assert document.title == "Knots" and report_day(document.time_s) == "2024-05-06"


def report_day(time_s: float | None) -> str:
    from datetime import datetime, timezone

    assert time_s is not None
    return datetime.fromtimestamp(time_s, timezone.utc).date().isoformat()


def test_mail_keeps_what_its_writer_wrote(tmp_path: Path) -> None:
    documents, report = read_one(tmp_path, "all.mbox", samples.MBOX, me="nobody@example.org, Anna Lee, ben okoro, Carl")
    assert [(d.title, d.turns[-1].text) for d in documents] == [
        ("Grüße", "How is the boat?\n\nFrom the pier it looked well."),
        ("Grüße", "Schön, dry and painted."),
        ("Paint", "Blue, please."),
    ]
    assert said(documents[0])[0] == ("user", "Grüße")
    assert report_day(documents[0].time_s) == "2024-01-01"
    assert report.remarks == {"mails sent by machines, left out": 1}


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Yes.\n\n> Is it?\n\nAnd no.\n> Really?\n", "Yes.\n\nAnd no."),
        ("Fine.\n\nAm 01.02.2024 um 10:00 schrieb Anna Lee <anna@example.org>:\n\nWie geht es?\n", "Fine."),
        ("Fine.\n\n-----Original Message-----\nFrom: Anna\nold", "Fine."),
        ("Fine.\n\nFrom: Anna Lee\nSent: Monday\nTo: Ben\nSubject: x\n\nold", "Fine."),
        ("Fine.\n\nSent from my iPhone", "Fine."),
        ("Fine.\n-- \nBen Okoro\nHarbour", "Fine."),
        ("On Monday we sailed; Anna wrote:\nnothing at all that day, as you know.", None),
        ("From: the harbour, with love.\nTo the sea.", None),
    ],
)
def test_quotes_and_signatures_are_left_out(text: str, own: str | None) -> None:
    from pocketft.data.readers.mail_words import own_words

    if own is not None:
        assert own_words(text) == own
    else:
        assert own_words(text) == text


def test_a_maildir_is_read_with_its_hidden_folders_and_without_unfinished_mail(tmp_path: Path) -> None:
    box = tmp_path / "Maildir"
    for folder in (box, box / ".Sent"):
        for part in ("cur", "new", "tmp"):
            (folder / part).mkdir(parents=True)
    (box / "cur" / "1700000000.M1P1.host:2,S").write_bytes(samples.MBOX[: samples.MBOX.index(b"From 1235@")])
    (box / "tmp" / "2").write_bytes(samples.EML)
    (box / ".Sent" / "cur" / "3").write_bytes(samples.EML)
    documents, report = read(box)
    assert report.files == {"mail": 1} and report.own_messages == 1  # what lies in Sent is the owner's
    assert only(documents).source == "Maildir/.Sent/cur/3"


def test_a_single_mail_is_not_cut_at_a_sentence_that_begins_with_from(tmp_path: Path) -> None:
    mail = (
        b"From: Ben <ben@example.org>\nTo: anna@example.org\nSubject: Trip\n\n"
        b"We met.\n\nFrom Berlin we took the train.\n"
    )
    assert only(read_one(tmp_path, "a.eml", mail)[0]).text == "We met.\n\nFrom Berlin we took the train."


def test_whatsapp_in_both_date_styles(tmp_path: Path) -> None:
    android = read_one(tmp_path, "WhatsApp Chat with Anna Lee.txt", samples.WHATSAPP_ANDROID)[0]
    assert [said(d) for d in android] == [
        [("user", "Are you coming?"), ("assistant", "Yes!\nAt ten, I think.\nThe view from here")],
        [("assistant", "Happy new year")],
    ]
    assert [report_day(d.time_s) for d in android] == ["2023-12-31", "2024-01-01"] and android[0].title == "Anna Lee"
    iphone = only(read_one(tmp_path, "_chat.txt", samples.WHATSAPP_IPHONE, me="ben")[0])
    assert said(iphone) == [("user", "Kommst du?"), ("assistant", "Ja!\nUm zehn, denke ich.")]
    assert report_day(iphone.time_s) == "2023-12-31"


@pytest.mark.parametrize(
    ("line", "day"),
    [
        ("3/4/24, 9:41 PM - Ben: x", "2024-03-04"),
        ("3/4/24, 21:41 - Ben: x", "2024-04-03"),
        ("13/4/2024, 9:41 pm - Ben: x", "2024-04-13"),
        ("[2024-04-03, 9:41:01 a.m.] Ben: x", "2024-04-03"),
        ("[03.04.24, 21:41:01] Ben: x", "2024-04-03"),
        ("[03/04/2024, 21.41.01] Ben: x", "2024-04-03"),
        ("2024/4/3 21:41 - Ben: x", "2024-04-03"),
    ],
)
def test_whatsapp_dates(tmp_path: Path, line: str, day: str) -> None:
    document = only(read_one(tmp_path, "chat.txt", f"{line}\n{line}".encode())[0])
    assert report_day(document.time_s) == day and document.text == "Ben: x\nx"


def test_telegram_of_one_chat_and_of_an_account(tmp_path: Path) -> None:
    turns = [("user", "Did you see the boat?"), ("assistant", "Yes, at https://example.org — nice\nIt is blue")]
    assert said(only(read_one(tmp_path, "result.json", samples.TELEGRAM)[0])) == turns
    documents, report = read_one(tmp_path, "all.json", samples.TELEGRAM_ACCOUNT)
    assert [said(d) for d in documents] == [turns, [("assistant", "Buy bread")]]
    assert report.voice == "Ben" and not report.voice_guessed


def test_signal_in_both_forms(tmp_path: Path) -> None:
    for name, content in samples.SAMPLES["signal"]:
        document = only(read_one(tmp_path / "Anna Lee", name, content)[0])
        assert said(document) == [("user", "Tea?"), ("assistant", "Always.")]


def test_discord_in_both_forms(tmp_path: Path) -> None:
    document = only(read_one(tmp_path, "anna.json", samples.DISCORD, me="ben")[0])
    assert said(document) == [("user", "Any plans?"), ("assistant", "The sea.")] and document.title == "anna"
    assert said(only(read_one(tmp_path, "m.json", samples.DISCORD_PACKAGE)[0])) == [("assistant", "First\nSecond")]


def test_slack_takes_names_from_beside_the_channels(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "general").mkdir(parents=True)
    (folder / "users.json").write_bytes(samples.SLACK_USERS)
    (folder / "general" / "2024-03-21.json").write_bytes(samples.SLACK_DAY)
    documents, report = read(folder, me="Ben Okoro")
    assert said(only(documents)) == [
        ("user", "Hi @Ben Okoro, see the page & tell"),
        ("assistant", "Read it @here"),
    ]
    assert documents[0].title == "general" and report.files_skipped == {"list of a Slack export": 1}


def test_a_damaged_list_of_slack_names_is_told_once_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    for room in ("general", "random"):
        (folder / room).mkdir(parents=True)
        for day in ("2024-03-21", "2024-03-22"):
            (folder / room / f"{day}.json").write_bytes(samples.SLACK_DAY)
    (folder / "users.json").write_bytes(samples.SLACK_USERS[:-3])
    opened = []
    open_file = SourceFile.open
    monkeypatch.setattr(SourceFile, "open", lambda file: opened.append(file.name) or open_file(file))
    _, report = read(folder, me="nobody")
    (damage,) = report.damaged
    assert damage.where == "export/users.json" and damage.reason.endswith("people without a name are shown by their id")
    assert opened.count("export/users.json") == 3  # twice as a file that might hold text, and once for its names


def test_a_pdf_that_meets_the_memory_cap_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pypdf import PageObject

    for error in (MemoryCapError("reading needs more than the cap"), MemoryError()):
        monkeypatch.setattr(PageObject, "extract_text", _raising(error))
        with pytest.raises(type(error)):
            read_one(tmp_path, "keeper.pdf", samples.PDF)


def test_a_mail_that_meets_the_memory_cap_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryCapError("reading needs more than the cap"), MemoryError()):
        monkeypatch.setattr("email.message_from_bytes", _raising(error))
        with pytest.raises(type(error)):
            read_one(tmp_path, "a.eml", samples.EML)


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail
