"""HTML pages, saved from the web or written by programs: their text, without scripts, styles and navigation.

Parses as it reads: a page of any size is never held whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from pocketft.data.borders import PART_CHARS
from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text, remark_encoding

MAX_PENDING_CHARS = 1 << 20  # of an unfinished tag or comment: what is longer never finishes
_NAMES = (".html", ".htm", ".xhtml")
_BEGINS = re.compile(r"(?:\s|<!--.*?-->|<\?xml[^>]*>)*<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:p|div|span|br|a|li|ul|h[1-6]|table|td|tr)\b[^>]*>", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>([^<]{1,300})", re.IGNORECASE)

_UNSEEN = {
    "script",
    "style",
    "template",
    "noscript",
    "nav",
    "svg",
    "math",
    "select",
    "button",
    "head",
    "iframe",
    "object",
}
_PARAGRAPHS = {"p", "div", "section", "article", "main", "header", "footer", "aside", "blockquote", "pre", "ul", "ol",
               "dl", "table", "figure", "form", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "address"}  # fmt: skip
_LINES = {"br", "li", "tr", "dt", "dd", "figcaption", "caption", "summary", "option"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_QUOTED = ("gmail_quote", "yahoo_quoted", "moz-cite-prefix", "gmail_signature")


class TextOf(HTMLParser):
    """Collects the text of a page: `feed` it, then `take` what is there. With `mail`, quotes are left out."""

    def __init__(self, *, mail: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self._mail = mail
        self._pieces: list[str] = []
        self._unseen: list[str] = []  # open elements from the first unseen one on
        self._pre = 0
        self._break = 0  # newlines owed before the next words
        self._space = False
        self._wrote = False

    def take(self) -> str:
        text = "".join(self._pieces)
        self._pieces.clear()
        return text

    @property
    def pending(self) -> int:
        return len(self.rawdata)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen or tag in _UNSEEN or (self._mail and self._is_quote(tag, attrs)):
            if tag not in _VOID:
                if tag == "body":  # no page closes its head by mistake twice
                    self._unseen.clear()
                else:
                    self._unseen.append(tag)
            return
        self._layout(tag)
        if tag == "pre":
            self._pre += 1
        elif tag == "li":
            self._write("- ")
        elif tag in ("td", "th"):
            self._space = True

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag in self._unseen:
                while self._unseen.pop() != tag:
                    pass
            return
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        self._layout(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._pre:
            self._write(data)
            return
        words = data.split()
        if not words:
            self._space = self._space or bool(data)
            return
        if data[0].isspace():
            self._space = True
        self._write(" ".join(words))
        self._space = data[-1].isspace()

    def _layout(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._break = 2
        elif tag in _LINES:
            self._break = min(2, self._break + 1) if tag == "br" else max(1, self._break)

    def _write(self, text: str) -> None:
        if self._break and self._wrote:
            self._pieces.append("\n" * self._break)
        elif self._space and self._wrote and not (self._pieces and self._pieces[-1].endswith((" ", "\n"))):
            self._pieces.append(" ")
        self._break, self._space, self._wrote = 0, False, True
        self._pieces.append(text)

    @staticmethod
    def _is_quote(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
        named = " ".join(value for name, value in attrs if name in ("class", "id") and value)
        return tag == "blockquote" or any(mark in named for mark in _QUOTED)


def text_of(html: str, *, mail: bool = False) -> str:
    parser = TextOf(mail=mail)
    _feed(parser, html)
    _close(parser)
    return parser.take().strip()


def _recognises(sample: Sample) -> bool:
    return bool(_BEGINS.match(sample.head[:4096])) or (sample.suffix in _NAMES and len(_TAG.findall(sample.head)) >= 2)


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    title = _TITLE.search(sample.head)
    name = text_of(title[1]) if title else ""
    with open_text(sample.file, sample.encoding) as (file, decoded):
        yield from documents_of_text(_pieces(iter(lambda: file.read(PART_CHARS), "")), sample.name, name or None)
    remark_encoding(decoded, sample, report)


def _pieces(chunks: Iterator[str]) -> Iterator[str]:
    parser = TextOf()
    for chunk in chunks:
        _feed(parser, chunk)
        if parser.pending > MAX_PENDING_CHARS:
            _close(parser)
            parser.reset()
        if text := parser.take():
            yield text
    _close(parser)
    yield parser.take()


def _feed(parser: TextOf, html: str) -> None:
    try:
        parser.feed(html)
    except (AssertionError, ValueError):  # the library's own word for declarations that it cannot parse
        parser.reset()


def _close(parser: TextOf) -> None:
    try:
        parser.close()
    except (AssertionError, ValueError):
        parser.reset()


HTML = Reader("html", _recognises, _read)
