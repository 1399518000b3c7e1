"""A chat template as Ollama writes it, from the one in jinja that the model was trained with.

Ollama's templates are Go's, a language without jinja's. What a conversation becomes is found by rendering made-up ones
and looking at what stands around each message; the Go template built from that is then held against the original on
conversations of every shape. Where both do not agree to the letter there is no template, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocketft.data.documents import Turn

# A conversation, and whether the opening of the assistant's answer is to follow it -> the prompt.
Render = Callable[[Sequence[Turn], bool], str]

_SYSTEM, _FIRST, _ANSWER, _SECOND = "Quexo system", "Quexo first", "Quexo answer", "Quexo second"


@dataclass(frozen=True)
class GoTemplate:
    """Text around messages. `system_in_user`: the system's words go into the first user turn, `system_close` after
    them; `default_system` is what the model gets where nobody gives any.
    """

    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    system_open: str
    system_close: str
    system_in_user: bool
    has_system: bool
    prompt: str
    default_system: str | None

    def text(self) -> str:
        """The TEMPLATE of a Modelfile."""
        inner = ""
        if self.has_system and self.system_in_user:
            inner = "{{ if and $.System (le $i 1) }}{{ $.System }}" + _literal(self.system_close) + "{{ end }}"
        user = _literal(self.user_open) + inner + "{{ $m.Content }}" + _literal(self.user_close)
        answer = _literal(self.assistant_open) + "{{ $m.Content }}" + _literal(self.assistant_close)
        branches = '{{ if eq $m.Role "user" }}' + user + '{{ else if eq $m.Role "assistant" }}' + answer
        if self.has_system and not self.system_in_user:
            system = _literal(self.system_open) + "{{ $m.Content }}" + _literal(self.system_close)
            branches += '{{ else if eq $m.Role "system" }}' + system
        return "{{ range $i, $m := .Messages }}" + branches + "{{ end }}{{ end }}" + _literal(self.prompt)

    def render(self, turns: Sequence[Turn]) -> str:
        """What Ollama makes of `turns` by this template and the system's default words."""
        if self.default_system is not None and turns[0].role != "system":
            turns = (Turn("system", self.default_system), *turns)
        system = next((turn.text for turn in turns if turn.role == "system"), "")
        parts = []
        for index, turn in enumerate(turns):
            if turn.role == "user":
                first = self.has_system and self.system_in_user and system and index <= 1
                inner = f"{system}{self.system_close}" if first else ""
                parts += [self.user_open, inner, turn.text, self.user_close]
            elif turn.role == "assistant":
                parts += [self.assistant_open, turn.text, self.assistant_close]
            elif self.has_system and not self.system_in_user:
                parts += [self.system_open, turn.text, self.system_close]
        return "".join([*parts, self.prompt])


def go_template(render: Render) -> GoTemplate | None:
    """The Go template that says the same as `render`, or None where none was found."""
    found = _derive(render)
    return found if found is not None and _agrees(found, render) else None


def _derive(render: Render) -> GoTemplate | None:
    user, answer, second = Turn("user", _FIRST), Turn("assistant", _ANSWER), Turn("user", _SECOND)
    bare, bare_prompted = render([user], False), render([user], True)
    long = render([user, answer, second], True)
    finished = render([user, answer], False)
    places = [text.find(word) for text, word in ((bare, _FIRST), (long, _ANSWER), (long, _SECOND), (finished, _ANSWER))]
    if min(places) < 0 or not bare_prompted.startswith(bare):
        return None
    prompt = bare_prompted[len(bare) :]
    head, user_close = _split(bare, _FIRST)
    assistant_close = _split(finished, _ANSWER)[1]
    _, between = _split(long.partition(_ANSWER)[0], _FIRST)
    middle = long.partition(_ANSWER)[2].partition(_SECOND)[0]
    if not between.startswith(user_close) or not middle.startswith(assistant_close):
        return None
    assistant_open, user_open = between[len(user_close) :], middle[len(assistant_close) :]
    if not head.endswith(user_open):
        return None
    before = head[: len(head) - len(user_open)]  # what stands before everything, where no system's words are given
    plain = {
        "user_open": user_open,
        "user_close": user_close,
        "assistant_open": assistant_open,
        "assistant_close": assistant_close,
        "prompt": prompt,
    }
    system = _system(render, user, user_open, before)
    if system is None:
        return None
    system_open, system_close, in_user, has_system, default = system
    return GoTemplate(
        **plain,
        system_open=system_open,
        system_close=system_close,
        system_in_user=in_user,
        has_system=has_system,
        default_system=default,
    )


def _system(render: Render, user: Turn, user_open: str, before: str) -> tuple[str, str, bool, bool, str | None] | None:
    try:
        text = render([Turn("system", _SYSTEM), user], False)
    except Exception:  # a template refuses in its own words, with whatever exception its author chose
        text = ""
    if _SYSTEM not in text:
        return None if before else ("", "", False, False, None)
    opening, rest = _split(text, _SYSTEM)
    inner = rest.partition(_FIRST)[0]
    if inner.endswith(user_open) and user_open:
        close = inner[: len(inner) - len(user_open)]
        if not before:
            return opening, close, False, True, None
        if before.startswith(opening) and before.endswith(close):
            return opening, close, False, True, before[len(opening) : len(before) - len(close)]
        return None
    if opening == user_open and not before:
        return "", inner, True, True, None
    if not user_open and not before and not opening:
        return "", inner, False, True, None
    return None


def _agrees(template: GoTemplate, render: Render) -> bool:
    system, user, answer = Turn("system", "Be brief."), Turn("user", "Who is it?"), Turn("assistant", "It is I.")
    shapes = [[user], [user, answer, user], [user, answer, user, answer, Turn("user", "And then?\n\nTell me.")]]
    if template.has_system:
        shapes += [[system, *shape] for shape in shapes]
    return all(template.render(shape) == render(shape, True) for shape in shapes)


def _split(text: str, word: str) -> tuple[str, str]:
    before, _, after = text.partition(word)
    return before, after


def _literal(text: str) -> str:
    """Text that Go is to print as it is."""
    return text.replace("{{", '{{ "{{" }}')
