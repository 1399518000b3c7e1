"""A folder that Ollama makes a model of: weights, and a Modelfile with the model's own template and stop words.

Whether Ollama takes an adapter depends on its version and on the model's family, and what it does not take it finds out
only when it runs. So that is settled here, before anything is written: an adapter beside its base where the Ollama in
question takes that, else both folded into one file, which every Ollama takes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pocketft.adapters.export_base import ExportBase
from pocketft.adapters.export_template import GoTemplate, go_template
from pocketft.data.chat import ChatTemplate, plain_template
from pocketft.data.documents import Turn
from pocketft.data.tokenizer import TextTokenizer, load_text_tokenizer
from pocketft.data.tokenizer_files import chat_template_source
from pocketft.errors import UsageError

# Ollama's own engine ends with "loras are not yet implemented"; these families of ours run in it (fs/ggml/ggml.go,
# OllamaEngineRequired). The others run in llama.cpp, which takes adapters.
_OWN_ENGINE = ("gemma3", "qwen3")
# ADAPTER in a Modelfile is refused from here on (ollama pull request 14969).
_LAST_WITH_ADAPTERS = (0, 34, 0)


@dataclass(frozen=True)
class OllamaChoice:
    """What to write, and why. `reason` is empty where adapters are taken."""

    takes_adapter: bool
    reason: str


def choose(architecture: str, version: tuple[int, ...] | None) -> OllamaChoice:
    """Whether Ollama `version` (None: the newest) takes an adapter for this family."""
    if architecture in _OWN_ENGINE:
        return OllamaChoice(False, f"Ollama runs {architecture} models in its own engine, which takes no adapters")
    last = ".".join(map(str, _LAST_WITH_ADAPTERS))
    if version is None:
        return OllamaChoice(False, f"Ollama after {last} takes no adapters (--ollama-version, where it is older)")
    if version > _LAST_WITH_ADAPTERS:
        return OllamaChoice(False, f"Ollama {'.'.join(map(str, version))} takes no adapters, only up to {last}")
    return OllamaChoice(True, "")


def installed_version() -> tuple[int, ...] | None:
    """The version of the Ollama on this machine, if there is one. Asks the program, not a server."""
    program = shutil.which("ollama")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"(\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found[-1])) if found else None


def parse_version(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-\w+)?", text.strip())
    if match is None:
        raise UsageError(f"--ollama-version {text!r:.40} is not a version; write for example 0.34.0")
    return tuple(int(part or 0) for part in match.groups())


def modelfile(base: ExportBase, model_file: str, adapter_file: str | None) -> tuple[str, list[str]]:
    """The text of the Modelfile, and what a person should know about it."""
    tokenizer = load_text_tokenizer(base.model.config_dir)
    source = chat_template_source(base.model.config_dir)
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
    lines += [f"PARAMETER stop {_quoted(word)}" for word in _stop_words(base, tokenizer, found)]
    return "\n".join(lines) + "\n", notices


def _stop_words(base: ExportBase, tokenizer: TextTokenizer, template: GoTemplate | None) -> list[str]:
    """The tokens that end an answer, by configuration and by template; for a base model also the user's heading."""
    named = base.config.eos_token_id
    ids = [*tokenizer.end, *(named if isinstance(named, list) else [named])]
    words = [tokenizer.backend.id_to_token(number) for number in ids if isinstance(number, int)]
    if template is not None:
        closing = template.assistant_close.strip()
        words += [word for word in tokenizer.special_words if word and closing.startswith(word)]
        opening = template.user_open.strip()
        if not any(word in opening for word in tokenizer.special_words if word):
            words.append(opening)
    return list(dict.fromkeys(word for word in words if word))


def _quoted(text: str) -> str:
    if '"""' in text:
        raise UsageError("the model's chat template holds three quotation marks in a row, which no Modelfile can")
    return f'"""{text}"""' if "\n" in text or '"' in text or text != text.strip() else f'"{text}"'
