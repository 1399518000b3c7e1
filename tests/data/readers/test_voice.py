"""The person's messages become the assistant's turns, and nobody else's."""

from __future__ import annotations

from pathlib import Path

from pocketft.data.documents import Message, ReadReport
from pocketft.data.voice import MAX_CONVERSATION_CHARS, SILENCE_S, documents_of_messages, guess_voice, voice_named
from tests.data.readers.reading import read, said

ME = voice_named("Ben")


def chat(*messages: tuple[str, str], step_s: float = 60, room: str = "") -> list[Message]:
    return [Message(author, text, 1e9 + number * step_s, room) for number, (author, text) in enumerate(messages)]


def conversations(messages: list[Message], voice: object = ME) -> list[list[tuple[str, str]]]:
    return [said(document) for document in documents_of_messages(messages, "x", voice, ReadReport())]  # type: ignore[arg-type]


def test_messages_in_a_row_are_one_turn() -> None:
    messages = chat(("Anna", "a"), ("Anna", "b"), ("ben", "c"), ("Ben", "d"), ("Anna", "e"), ("Ben", "f"))
    assert conversations(messages) == [[("user", "a\nb"), ("assistant", "c\nd"), ("user", "e"), ("assistant", "f")]]


def test_what_follows_the_last_own_word_is_left_out() -> None:
    assert conversations(chat(("Ben", "a"), ("Anna", "b"))) == [[("assistant", "a")]]


def test_a_long_silence_begins_another_conversation() -> None:
    first = chat(("Anna", "a"), ("Ben", "b"))
    second = [Message("Anna", "c", 1e9 + 60 + SILENCE_S + 1), Message("Ben", "d", 1e9 + 61 + SILENCE_S + 1)]
    assert conversations(first + second) == [
        [("user", "a"), ("assistant", "b")],
        [("user", "c"), ("assistant", "d")],
    ]


def test_several_others_are_told_apart_by_name() -> None:
    messages = chat(("Anna", "a"), ("Carl", "b"), ("Carl", "c"), ("Ben", "d"))
    assert conversations(messages) == [[("user", "Anna: a\nCarl: b\nc"), ("assistant", "d")]]


def test_without_a_voice_everybody_speaks() -> None:
    documents = list(documents_of_messages(chat(("Anna", "a"), ("Ben", "b"), ("Ben", "c")), "x", None, ReadReport()))
    assert [document.text for document in documents] == ["Anna: a\nBen: b\nc"]


def test_a_chat_without_times_is_cut_where_another_person_begins() -> None:
    long = "x" * (MAX_CONVERSATION_CHARS // 4)
    messages = [Message("Anna" if number % 2 else "Ben", long) for number in range(20)]
    found = conversations(messages)
    assert len(found) > 1 and sum(role == "assistant" for turns in found for role, _ in turns) == 10
    assert all(sum(len(text) for _, text in turns) <= 2 * MAX_CONVERSATION_CHARS for turns in found)


def test_rooms_told_in_turns_are_kept_apart() -> None:
    one, two = chat(("Anna", "a"), ("Ben", "b"), room="Anna"), chat(("Carl", "c"), ("Ben", "d"), room="Carl")
    mixed = [one[0], two[0], one[1], two[1]]
    assert conversations(mixed) == [[("user", "a"), ("assistant", "b")], [("user", "c"), ("assistant", "d")]]


def test_the_newest_first_is_turned_round() -> None:
    assert conversations(chat(("Anna", "a"), ("Ben", "b"))[::-1]) == [[("user", "a"), ("assistant", "b")]]


def guessed(*files: list[Message]) -> str | None:
    voice = guess_voice(iter(file) for file in files)
    return voice.shown if voice else None


def test_the_voice_is_guessed_where_one_person_is_everywhere() -> None:
    anna, carl = chat(("Anna", "a"), ("Ben", "b")), chat(("Ben", "c"), ("Carl", "d"))
    assert guessed(anna, carl) == "Ben"
    assert guessed(anna) is None and guessed(anna, anna) is None
    assert guessed(anna, chat(("Carl", "x"))) is None
    assert guessed(chat(("Anna", "a"), ("Ben", "b"), room="Anna")) == "Ben"


def test_mail_tells_its_owner_as_writer_or_receiver() -> None:
    def mail(author: str, *receivers: str) -> Message:
        return Message(author, "x", 1e9, answers="s", address=f"{author}@x.org", receivers=tuple(receivers))

    received, sent = mail("Anna", "Ben@x.org"), mail("Ben", "carl@x.org")
    assert guessed([received, sent, mail("Carl", "ben@x.org")]) == "Ben"
    assert guessed([received, received]) is None  # only ever received: no words to learn
    assert guessed([received]) is None


def test_a_wrong_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text("1/2/24, 10:00 - Anna: a\n1/2/24, 10:01 - Ben: b\n")
    documents, report = read(path, me="Benn")
    assert not documents
    assert report.notices()[-1] == (
        "nobody in the chats and mail is called Benn; there are: Anna (1), Ben (1); say --me NAME"
    )
    assert "nobody in the chats and mail is called Benn" in report.why_nothing()


def test_a_phone_number_is_no_name_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    number = "+49 170 1234567"
    path.write_text(f"1/2/24, 10:00 - {number}: a\n1/2/24, 10:01 - Ben: b\n1/2/24, 20:00 - Ben: c\n")
    for me in (None, "Benn", number):
        _, report = read(path, me=me)
        assert "[PHONE]" in str(report.to_json()) and number not in str(report.to_json())
    report.cleaning.kept = True  # who keeps such things in the text is told them, too
    assert report.shown(number) == number
