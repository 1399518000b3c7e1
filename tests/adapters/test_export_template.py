"""Jinja to Go: the same prompt to the letter, or no template at all."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
import pytest

from pocketft.adapters.export_template import GoTemplate, Render, go_template
from pocketft.data.chat import PLAIN_TEMPLATE
from pocketft.data.documents import Turn

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for m in loop_messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ first if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise('no') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
COUNTING = "{% for m in messages %}<{{ loop.index }}>{{ m['content'] }}\n{% endfor %}"


def renderer(source: str) -> Render:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise"] = refuse
    template = environment.from_string(source)

    def render(turns: Sequence[Turn], prompt: bool) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return template.render(messages=messages, add_generation_prompt=prompt, eos_token="</s>")

    return render


def derived(source: str) -> GoTemplate:
    found = go_template(renderer(source))
    assert found is not None
    return found


@pytest.mark.parametrize("source", [CHATML, GEMMA, NO_SYSTEM, PLAIN_TEMPLATE])
def test_the_prompt_is_the_same_to_the_letter(source: str) -> None:
    found, render = derived(source), renderer(source)
    talk = [Turn("user", "Is it\n{{ raining }}?"), Turn("assistant", "No."), Turn("user", "Now?")]
    assert found.render(talk) == render(talk, True)
    if found.has_system:
        whole = [Turn("system", "Speak low."), *talk]
        assert found.render(whole) == render(whole, True)


def test_what_the_templates_look_like() -> None:
    chat = derived(CHATML)
    assert chat.default_system == "You are kind." and not chat.system_in_user
    assert chat.text() == (
        '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}<|im_start|>user\n{{ $m.Content }}<|im_end|>\n'
        '{{ else if eq $m.Role "assistant" }}<|im_start|>assistant\n{{ $m.Content }}<|im_end|>\n'
        '{{ else if eq $m.Role "system" }}<|im_start|>system\n{{ $m.Content }}<|im_end|>\n{{ end }}{{ end }}'
        "<|im_start|>assistant\n"
    )
    gemma = derived(GEMMA)
    assert gemma.system_in_user and gemma.default_system is None
    assert "{{ if and $.System (le $i 1) }}{{ $.System }}\n\n{{ end }}{{ $m.Content }}" in gemma.text()
    assert not derived(NO_SYSTEM).has_system


def test_braces_of_the_template_itself_are_printed_not_run() -> None:
    found = derived("{% for m in messages %}{{ '{{' }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    assert '{{ "{{" }}user: ' in found.text()


def test_a_template_that_cannot_be_followed_gives_none() -> None:
    assert go_template(renderer(COUNTING)) is None
    assert go_template(renderer("{{ messages[-1]['content'] }}")) is None
