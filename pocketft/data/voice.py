"""Whose voice is learned: messages of several people become conversations in which one of them is the assistant.

Knows messages, not formats. The person's own messages are what the model learns to write; what others wrote before
them is what it answers. Where nobody knows who the person is, a chat is a text in which everybody speaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from pocketft.data.documents import Document, Message, ReadReport, Turn

SILENCE_S = 6 * 3600  # after a night or an afternoon, what is said next is seldom an answer
MAX_CONVERSATION_CHARS = 32_768
OPEN_ROOMS = 256  # some exports tell all chats at once, by time
GUESS_MESSAGES = 2_000  # of each file: who takes part shows early
GUESS_SHARE = 0.9  # of a file's conversations that somebody must take part in; mailing lists hide some receivers
PEOPLE_COUNTED = 5_000


@dataclass(frozen=True)
class Voice:
    """The person whose words are learned, by the names that exports may show."""

    names: frozenset[str]
    shown: str
    guessed: bool = False

    def wrote(self, message: Message) -> bool:
        return message.mine or (
            bool(self.names) and bool({_folded(message.author), _folded(message.address)} & self.names)
        )


def voice_named(me: str) -> Voice:
    """From what the person said: one name, or several with commas."""
    names = [name.strip() for name in me.split(",") if name.strip()]
    return Voice(frozenset(map(_folded, names)), names[0] if names else me)


def guess_voice(files: Iterable[Iterator[Message]]) -> Voice | None:
    """The one who wrote and who takes part in every file; None where that is nobody, or several."""
    in_mail = _Presence()
    presences = [in_mail]
    wrote: Counter[str] = Counter()
    shown: dict[str, str] = {}
    partners: set[str] = set()  # who gives a conversation of two its name is the other one
    for file in files:
        rooms: dict[str, set[str]] = {}
        for message in islice(file, GUESS_MESSAGES):
            if message.mine:
                return Voice(frozenset(filter(None, map(_folded, (message.author, message.address)))), message.author)
            author = _folded(message.address or message.author)
            shown.setdefault(author, message.author)
            wrote[author] += 1
            here = {author, *map(_folded, message.receivers)}
            if message.answers is not None:
                in_mail.add(here)
            else:
                rooms.setdefault(message.room, set()).update(here)
        if rooms:
            presences.append(_Presence())
        for room, here in rooms.items():
            presences[-1].add(here)
            if _folded(room) in here and len(here) == 2:
                partners.add(_folded(room))
    presences = [presence for presence in presences if presence.conversations]
    everywhere = set.intersection(*(presence.constant() for presence in presences)) if presences else set()
    found = everywhere - partners
    # In a single conversation somebody is always everywhere.
    single = sum(presence.conversations for presence in presences) == 1
    if len(found) != 1 or (single and len(everywhere) == 1):
        return None
    name = found.pop()
    return Voice(frozenset((name, _folded(shown[name]))), shown[name], guessed=True) if wrote[name] else None


class _Presence:
    """Who takes part in how many conversations of one file, or of all mail."""

    def __init__(self) -> None:
        self.conversations = 0
        self._people: Counter[str] = Counter()

    def add(self, people: set[str]) -> None:
        self.conversations += 1
        self._people.update(people)

    def constant(self) -> set[str]:
        return {name for name, times in self._people.items() if times >= GUESS_SHARE * self.conversations}


def documents_of_messages(
    messages: Iterable[Message], source: str, voice: Voice | None, report: ReadReport
) -> Iterator[Document]:
    """Conversations, cut at long silences; mails one by one."""
    rooms: dict[str, _Conversation] = {}
    for message in messages:
        if len(report.people) < PEOPLE_COUNTED or message.author in report.people:
            report.people[message.author] += 1
        report.own_messages += voice is not None and voice.wrote(message)
        if message.answers is not None:
            yield from _mail(message, source, voice, report)
            continue
        conversation = rooms.get(message.room)
        if conversation is not None and not conversation.goes_on_with(message):
            yield from conversation.document(source, voice, report)
            conversation = None
            del rooms[message.room]
        if conversation is None:
            if len(rooms) == OPEN_ROOMS:
                yield from rooms.pop(next(iter(rooms))).document(source, voice, report)
            conversation = rooms[message.room] = _Conversation()
        conversation.add(message)
    for conversation in rooms.values():
        yield from conversation.document(source, voice, report)


class _Conversation:
    """The messages of one room since its last silence."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._chars = 0

    def goes_on_with(self, message: Message) -> bool:
        last = self._messages[-1]
        silent = (
            message.time_s is not None
            and last.time_s is not None
            and abs(message.time_s - last.time_s) > SILENCE_S  # some exports tell the newest first
        )
        # A full one ends where another person begins, so that no turn is cut; without end it may not grow.
        full = self._chars > MAX_CONVERSATION_CHARS and message.author != last.author
        return not (silent or full or self._chars > 2 * MAX_CONVERSATION_CHARS)

    def add(self, message: Message) -> None:
        self._messages.append(message)
        self._chars += len(message.text)

    def document(self, source: str, voice: Voice | None, report: ReadReport) -> Iterator[Document]:
        messages = self._messages
        if all(message.time_s is not None for message in messages):
            messages = sorted(messages, key=lambda message: message.time_s or 0)
        time_s, title = messages[0].time_s, messages[0].room or None
        if voice is None:
            text = _joined([(message.author, message.text) for message in messages], named=True)
            yield Document(source, text, title=title, time_s=time_s)
            return
        while messages and not voice.wrote(messages[-1]):  # nothing of the person's follows to learn
            messages = messages[:-1]
        if not messages:
            report.remarks[f"conversations without a word of {report.shown(voice.shown)}, left out"] += 1
            return
        yield Document(source, turns=_turns(messages, voice.wrote), title=title, time_s=time_s)


def _turns(messages: list[Message], mine: Callable[[Message], bool]) -> tuple[Turn, ...]:
    several = len({message.author for message in messages if not mine(message)}) > 1
    turns = []
    group: list[Message] = []
    for message in messages:
        if group and mine(group[0]) != mine(message):
            turns.append(_turn(group, mine(group[0]), several))
            group = []
        group.append(message)
    turns.append(_turn(group, mine(group[0]), several))
    return tuple(turns)


def _turn(messages: list[Message], mine: bool, several: bool) -> Turn:
    said = [(message.author, message.text) for message in messages]
    return Turn("assistant" if mine else "user", _joined(said, named=several and not mine))


def _joined(said: list[tuple[str, str]], *, named: bool) -> str:
    """Messages under each other; with the author's name before the first of each person's."""
    lines = []
    before = None
    for author, text in said:
        lines.append(f"{author}: {text}" if named and author != before else text)
        before = author
    return "\n".join(lines)


def _mail(message: Message, source: str, voice: Voice | None, report: ReadReport) -> Iterator[Document]:
    title = message.answers or None
    if voice is None:
        yield Document(source, message.text, title=title, time_s=message.time_s)
    elif voice.wrote(message):
        asked = (Turn("user", title),) if title else ()
        turns = (*asked, Turn("assistant", message.text))
        yield Document(source, turns=turns, title=title, time_s=message.time_s)
    else:
        report.remarks[f"mails that {report.shown(voice.shown)} did not write, left out"] += 1


def tell_voice(voice: Voice | None, report: ReadReport) -> None:
    """Say in the report whose voice it is, once all is read."""
    if not report.people:
        return
    people = ", ".join(f"{report.shown(name)} ({count:,})" for name, count in report.people.most_common(5))
    if voice is None:
        report.notes.append(
            f"chats are read as texts in which everybody speaks; name yourself with --me to learn your voice: {people}"
        )
        return
    me = report.shown(voice.shown)
    report.voice, report.voice_guessed = me, voice.guessed
    if voice.guessed:
        report.notes.append(f"learning to write as {me}, who takes part in all chats and mail; not you? say --me NAME")
    elif not report.own_messages:
        report.notes.append(f"nobody in the chats and mail is called {me}; there are: {people}; say --me NAME")


@lru_cache(maxsize=4096)  # asked of every message
def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
