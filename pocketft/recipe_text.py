"""YAML as a recipe uses it: YAML 1.2's numbers, every key with its line, every mistake collected.

Knows text and nothing of which keys exist. `2e-4` is a number here, as everyone who writes it means, although YAML 1.1
(and so PyYAML) reads it as text; `010` is ten and `1:30` is text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from pocketft.errors import RecipeError

_LARGEST_FILE_BYTES = 256 * 1024  # a recipe is a page of text; anything larger was named by mistake


class NotAValue(Exception):
    """Text that is not one YAML value; the message says where and why."""


class Lines(dict[tuple[str, int], Any]):
    """A YAML mapping with (key, line) as keys."""


def read_lines(path: Path) -> tuple[Lines, list[str]]:
    """The file's mapping and the mistakes in it. Raises RecipeError where it is no text at all."""
    loader = _LinedLoader(_text(path))
    try:
        document = loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return Lines(), [*loader.problems, _reason(error)]
    finally:
        loader.dispose()
    if document is None:  # an empty file asks for nothing but the defaults
        return Lines(), loader.problems
    if not isinstance(document, Lines):
        return Lines(), [*loader.problems, "must hold sections with keys, as in `training: {epochs: 2}`"]
    return document, loader.problems


def read_value(text: str) -> Any:
    """One value as it would stand after a key: `2e-4`, `[q_proj, v_proj]`, `true`, a bare word."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise NotAValue(_reason(error)) from error


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise RecipeError(["is not an ordinary file"], where=str(path))
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise RecipeError([f"is larger than {_LARGEST_FILE_BYTES // 1024} KB; that is no recipe"], where=str(path))
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError([f"cannot be read: {error.strerror or error}"], where=str(path)) from error
    try:
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # what some editors on Windows save as "Unicode"
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(["is not UTF-8 text; that is no recipe"], where=str(path)) from None
    if (match := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        raise RecipeError([f"has a control character ({match[0]!r}); that is no recipe"], where=str(path))
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{place}not valid YAML ({' '.join(str(error.problem or error.context).split())})"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return f"not valid YAML ({' '.join(str(error).split())})"


class _PlainLoader(yaml.SafeLoader):
    """Plain values only: no dates, no tags of other languages, no aliases."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {}  # type: ignore[misc]

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            # A few aliases of aliases unfold to gigabytes, and no recipe needs one.
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not used in recipes", mark)
        return super().compose_node(parent, index)


class _LinedLoader(_PlainLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []


def _lined_mapping(loader: _LinedLoader, node: yaml.MappingNode) -> Lines:
    mapping, seen = Lines(), set()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            loader.problems.append(f"line {line}: a key must be a word")
            continue
        if key_node.value in seen:
            loader.problems.append(f"line {line}: {key_node.value:.60} is given twice")
        seen.add(key_node.value)
        mapping[key_node.value, line] = loader.construct_object(value_node, deep=True)
    return mapping


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)).replace("_", ""))


_WORDS = "true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", _WORDS, list("tTfFyYnNoO")),
    ("int", r"[-+]?[0-9][0-9_]{0,40}", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?", list("-+.0123456789")),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_LinedLoader.add_constructor("tag:yaml.org,2002:map", _lined_mapping)
