"""The Modelfile of a model: how Ollama is to talk to it, from its own chat template and tokenizer.

Knows the tokenizer's files and nothing of weights. Made in a process of its own: loading a vocabulary of 262,144 tokens
takes 300 MB, which would count against the cap of the export.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pocketft.adapters.export_template import GoTemplate, go_template
from pocketft.data.chat import ChatTemplate, plain_template
from pocketft.data.documents import Turn
from pocketft.data.tokenizer import TextTokenizer, load_text_tokenizer
from pocketft.data.tokenizer_files import chat_template_source
from pocketft.errors import ModelError, UsageError


def modelfile_apart(
    config_dir: Path, end_ids: Sequence[int], model_file: str, adapter_file: str | None
) -> tuple[str, list[str]]:
    """`modelfile`, in a process of its own."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(modelfile, config_dir, end_ids, model_file, adapter_file).result()
    except BrokenProcessPool as error:
        raise ModelError(
            "the process that reads the tokenizer ended before it was done; close other programs if memory ran out, "
            "and try again"
        ) from error


def modelfile(
    config_dir: Path, end_ids: Sequence[int], model_file: str, adapter_file: str | None
) -> tuple[str, list[str]]:
    """The text of the Modelfile, and what a person should know about it. `end_ids`: what ends an answer, by the
    model's configuration.
    """
    tokenizer = load_text_tokenizer(config_dir)
    source = chat_template_source(config_dir)
    template = ChatTemplate(source or plain_template(tokenizer), tokenizer)
    begin = tokenizer.bos_token if tokenizer.prefix else ""  # Ollama puts it there itself

    def render(turns: Sequence[Turn], prompt: bool) -> str:
        return template.render(turns, add_generation_prompt=prompt).removeprefix(begin)

    found = go_template(render)
    lines = [f"FROM ./{model_file}"]
    if adapter_file is not None:
        lines.append(f"ADAPTER ./{adapter_file}")
    notices = []
    if found is None:
        notices.append(
            "the model's chat template says more than could be put in Ollama's language: the Modelfile has none, and "
            "Ollama uses the one it recognises in the file; compare its answers with `pocketft chat`"
        )
    else:
        lines.append(f"TEMPLATE {_quoted(found.text())}")
        if found.default_system:
            lines.append(f"SYSTEM {_quoted(found.default_system)}")
        if source is not None and "tools" in source:
            notices.append(
                "the Modelfile's template holds conversations; what the model's own says of tools is left out"
            )
    lines += [f"PARAMETER stop {_quoted(word)}" for word in _stop_words(end_ids, tokenizer, found)]
    return "\n".join(lines) + "\n", notices


def _stop_words(end_ids: Sequence[int], tokenizer: TextTokenizer, template: GoTemplate | None) -> list[str]:
    """The tokens that end an answer, by configuration and by template; for a base model also the user's heading."""
    ids = [*tokenizer.end, *end_ids]
    words = [tokenizer.backend.id_to_token(number) for number in ids]
    if template is not None:
        closing = template.assistant_close.strip()
        words += sorted(word for word in tokenizer.special_words if word and closing.startswith(word))
        opening = template.user_open.strip()
        if not any(word in opening for word in tokenizer.special_words if word):
            words.append(opening)
    return list(dict.fromkeys(word for word in words if word))


def _quoted(text: str) -> str:
    if '"""' in text:
        raise UsageError("the model's chat template holds three quotation marks in a row, which no Modelfile can")
    return f'"""{text}"""' if "\n" in text or '"' in text or text != text.strip() else f'"{text}"'
