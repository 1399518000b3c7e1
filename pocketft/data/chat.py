"""Conversations through the model's own chat template, and which characters of the result are the assistant's.

Few templates mark the assistant's words (`{% generation %}`), so the marks are found: a made-up conversation is
rendered once, which shows the text that opens an assistant's turn and the one that closes it; then every real
conversation is walked from opening to closing. Control words in a person's own text are defused first, so that no
message can look like the beginning of another. What cannot be followed is refused, never guessed.

Loss lies on everything from the opening to the end-of-turn token, both as the model would have to write them itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from pocketft.data.documents import Turn
from pocketft.data.encoding import without_surrogates
from pocketft.data.tokenizer import TextTokenizer
from pocketft.errors import ModelError

# For base models, which have no template of their own.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim }}\n\n"
    "{% elif message['role'] == 'assistant' %}### Assistant:\n{{ message['content'] | trim }}{{ eos_token }}\n\n"
    "{% else %}### User:\n{{ message['content'] | trim }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)

# Some templates print today's date; training must give the same tokens tomorrow. The day is Llama 3's own default.
_TODAY = datetime(2024, 7, 26)
_PROBES = ("Wexqua one", "Wexqua two", "Wexqua three", "Wexqua four")
MAX_WINDOW_CHARS = 65_536  # a conversation longer than this is rendered in several, each with the system's words


class CannotFollow(Exception):
    """This conversation does not fit the template; the message says why."""


@dataclass(frozen=True)
class RenderedChat:
    """The text of a conversation and the spans of characters [start, end) that carry loss, one per assistant turn."""

    text: str
    learned: tuple[tuple[int, int], ...]


def plain_template(tokenizer: TextTokenizer) -> str:
    """The template for base models; it begins as the tokenizer begins a text."""
    return ("{{ bos_token }}" if tokenizer.prefix else "") + PLAIN_TEMPLATE


class ChatTemplate:
    """A compiled template with the marks of an assistant's turn in it."""

    def __init__(self, source: str, tokenizer: TextTokenizer) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=_TODAY.strftime)
        self._words = tokenizer.added_words
        self._special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
        self._knows_developer = "developer" in source
        try:
            self._template = environment.from_string(source)
            self._probe(tokenizer.special_words)
        except (jinja2.TemplateError, CannotFollow, TypeError, ValueError) as error:
            raise ModelError(
                f"the base model's chat template cannot be used ({error}); use plain text, or another base model"
            ) from error

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = (), *, add_generation_prompt: bool = False
    ) -> str:
        messages = [{"role": turn.role, "content": turn.text, **turn.fields} for turn in turns]
        return str(
            self._template.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        )

    def for_training(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> Iterator[RenderedChat]:
        """The conversation as the model would see it, up to the end of the last assistant turn.

        A very long one comes in several windows, each beginning with the system's words and a user's turn. Raises
        CannotFollow where the template refuses it or rewrites it beyond recognition.
        """
        for window in _windows(self._tidy(turns)):
            yield self._rendered(window, tools)

    def _rendered(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> RenderedChat:
        refusal = ""
        for attempt in _attempts(turns):
            try:
                text = without_surrogates(self.render(attempt, tools))
                spans = self._follow(text, attempt)
            except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
                refusal = refusal or f"the model's chat template refuses it: {error}"
                continue
            except CannotFollow as error:
                refusal = refusal or str(error)
                continue
            return RenderedChat(text[: spans[-1][1]], spans)
        raise CannotFollow(refusal)

    def _tidy(self, turns: Sequence[Turn]) -> list[Turn]:
        """Control words defused, one speaker's messages in a row joined, turns after the assistant's last left out."""
        tidy: list[Turn] = []
        for turn in turns:
            role = "system" if turn.role == "developer" and not self._knows_developer else turn.role
            turn = replace(turn, role=role, text=self._defuse(turn.text).strip())
            if tidy and tidy[-1].role == role and role != "tool" and not (turn.fields or tidy[-1].fields):
                turn = replace(turn, text=f"{tidy.pop().text}\n{turn.text}")
            tidy.append(turn)
        while tidy and tidy[-1].role != "assistant":
            tidy.pop()
        return tidy

    def _defuse(self, text: str) -> str:
        return self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def _probe(self, special_words: frozenset[str]) -> None:
        """Learn what opens and what closes an assistant's turn from a conversation of four known turns."""
        turns = [Turn("assistant" if index % 2 else "user", words) for index, words in enumerate(_PROBES)]
        text = self.render(turns)
        ends = [0]
        for words in _PROBES:
            at = text.find(words, ends[-1])
            if at < 0:
                raise CannotFollow("it leaves out messages")
            ends.append(at + len(words))
        between = text[ends[3] : text.find(_PROBES[3], ends[3])]
        unprompted, prompted = self.render(turns[:3]), self.render(turns[:3], add_generation_prompt=True)
        prompt = prompted[len(unprompted) :] if prompted.startswith(unprompted) else ""
        steering = [word for word in self._words if word in special_words or word in text]
        self._control = _any_of(steering)
        self._opening = prompt if prompt and prompt in between else between.lstrip()
        if not self._opening:
            raise CannotFollow("nothing separates the user's words from the assistant's")
        self._last_closing = self._closing_in(text[ends[4] :])
        # A template whose last turn has no end mark has none: a control word there begins the next user turn.
        self._closing = self._closing_in(text[ends[2] : text.find(_PROBES[2], ends[2])]) if self._last_closing else ""

    def _closing_in(self, text: str) -> str:
        """The end-of-turn mark at the beginning of what follows an assistant's words."""
        text = text.lstrip()
        return next((word for word in self._words if text.startswith(word)), "")

    def _follow(self, text: str, turns: Sequence[Turn]) -> tuple[tuple[int, int], ...]:
        spans: list[tuple[int, int]] = []
        position = 0
        for index, turn in enumerate(turns):
            words = turn.text.strip()
            if turn.role != "assistant":
                at = text.find(words, position)
                position = at + len(words) if at >= 0 else position
                continue
            opening = text.find(self._opening, position)
            if opening < 0:
                raise CannotFollow("the model's chat template leaves out or joins an assistant's turn")
            start = opening + len(self._opening)
            closing = self._last_closing if index == len(turns) - 1 else self._closing
            end = self._end_of_words(text, start, words, closing)
            spans.append((start, end))
            position = end
        return tuple(spans)

    def _end_of_words(self, text: str, start: int, words: str, closing: str) -> int:
        at = text.find(words, start)
        if at < 0 and "</think>" in words:  # some templates drop the thoughts of earlier turns
            words = words.rpartition("</think>")[2].strip()
            at = text.find(words, start)
        if at < 0 or (closing and closing in text[start:at]):
            raise CannotFollow("the model's chat template rewrites the assistant's words")
        end = at + len(words)
        if closing:
            found = text.find(closing, end)
            if found < 0:
                raise CannotFollow("the model's chat template does not end an assistant's turn")
            end = found + len(closing)
        return end


def _windows(turns: Sequence[Turn]) -> Iterator[tuple[Turn, ...]]:
    system = tuple(turn for turn in turns[:1] if turn.role == "system")
    window: list[Turn] = []
    chars = 0
    for turn in turns[len(system) :]:
        if window and turn.role == "user" and chars + len(turn.text) > MAX_WINDOW_CHARS:
            yield system + tuple(window)
            window, chars = [], 0
        window.append(turn)
        chars += len(turn.text)
    yield system + tuple(window)


def _attempts(turns: Sequence[Turn]) -> Iterator[tuple[Turn, ...]]:
    """The conversation as it is; then, for templates that refuse it, in forms that say the same."""
    turns = tuple(turns)
    yield turns
    if turns and turns[0].role == "system":  # no system role: its words go before the user's first
        system, turns = turns[0], turns[1:]
        if turns and turns[0].role == "user":
            turns = (replace(turns[0], text=f"{system.text}\n\n{turns[0].text}"), *turns[1:])
        else:
            turns = (Turn("user", system.text), *turns)
        yield turns
    if turns and turns[0].role == "assistant":  # roles must alternate from the user on
        yield (Turn("user", ""), *turns)


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    # A single character, or letters alone, is never a control word that a template relies on.
    steering = [word for word in words if len(word) > 2 and not word.isalnum()]
    return re.compile("|".join(map(re.escape, steering)) or r"(?!)")


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks are rendered as if the marks were not there."""

    tags = {"generation"}  # noqa: RUF012 - declared by jinja2 as a plain set

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
