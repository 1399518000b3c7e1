"""Memory and speed of reading: large exports made up here, read in a process each, with its peak and its time.

    python scripts/data_bench.py [--megabytes 500] [--folder DIR]     readers alone: one mbox, one JSONL, one Telegram
    python scripts/data_bench.py --mix 100 --folder DIR               only writes 100 MB of mixed text, to inspect

The words are those of the sample text that is shipped, in random order: they compress and tokenize like prose.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

READ = """
import sys, time
from pathlib import Path
from pocketft.data.documents import ReadReport
from pocketft.data.readers import read_documents
from pocketft.data.sources import find_files
from pocketft.memory.meter import peak_rss_bytes
before, started = peak_rss_bytes(), time.monotonic()
report = ReadReport()
chars = sum(
    len(d.text) + sum(len(t.text) for t in d.turns)
    for d in read_documents(find_files([Path(sys.argv[1])], report), report, me=sys.argv[2] or None)
)
took = time.monotonic() - started
print(f"{sum(report.documents.values()):>9,} documents {chars / 1e6:>7.1f} M characters {took:>6.1f} s "
      f"peak {peak_rss_bytes() / 2**20:>6.1f} MB (before {before / 2**20:.1f} MB)")
"""


def sentences(seed: int) -> Iterator[str]:
    from pocketft.samples import reference_text

    words = reference_text().split()
    chance = random.Random(seed)
    while True:
        yield " ".join(chance.choices(words, k=chance.randint(6, 18))).capitalize() + "."


def paragraph(source: Iterator[str], chars: int) -> str:
    text = ""
    while len(text) < chars:
        text += next(source) + (" " if len(text) % 7 else "\n\n")
    return text.strip()


def mbox(number: int, source: Iterator[str]) -> str:
    me, other = ("Ben Okoro <ben@example.org>", f"Person {number % 50} <p{number % 50}@example.org>")
    sender, receiver = (me, other) if number % 3 == 0 else (other, me)
    return (
        f"From {number}@xxx Mon Jan 01 10:00:00 +0000 2024\nFrom: {sender}\nTo: {receiver}\n"
        f"Subject: Re: {next(source)[:40]}\nDate: Mon, 01 Jan 2024 10:00:00 +0000\nMessage-ID: <{number}@example.org>\n"
        f"Content-Type: text/plain; charset=utf-8\n\n{paragraph(source, 1500)}\n\n"
        f"On Mon, Jan 1, 2024 at 9:00 AM Somebody <s@example.org> wrote:\n> {next(source)}\n> {next(source)}\n\n"
    )


def jsonl(number: int, source: Iterator[str]) -> str:
    if number % 2:
        return json.dumps({"text": paragraph(source, 1200)}) + "\n"
    turns = [{"role": role, "content": next(source)} for role in ("user", "assistant") * 3]
    return json.dumps({"messages": turns}) + "\n"


def telegram(number: int, source: Iterator[str]) -> str:
    name = "Ben" if number % 2 else "Anna"
    time_s = 1_700_000_000 + 60 * number + 30_000 * (number // 40)
    message = {"id": number, "type": "message", "date_unixtime": str(time_s),
               "from": name, "from_id": name, "text": next(source)}  # fmt: skip
    opening = '{"name": "Anna", "type": "personal_chat", "id": 1, "messages": [\n' if number == 0 else ",\n"
    return opening + json.dumps(message)


def whatsapp(number: int, source: Iterator[str]) -> str:
    day, hour, minute = number // 1440 % 28 + 1, number // 60 % 24, number % 60
    return f"{day:02}.03.24, {hour:02}:{minute:02} - {'AB'[number % 2]}: {next(source)}\n"


def html(number: int, source: Iterator[str]) -> str:
    return f"<!DOCTYPE html><html><body><h1>{next(source)}</h1>\n" * (number == 0) + f"<p>{next(source)}</p>\n"


def note(number: int, source: Iterator[str]) -> str:
    return f"# {next(source)}\n\n{paragraph(source, 3000)}\n\n- [ ] see [[Page {number}]]\n\n"


def write(path: Path, size_bytes: int, piece: Callable[[int, Iterator[str]], str], seed: int = 0) -> Path:
    source, written, number = sentences(seed), 0, 0
    # One piece in ten thousand is new: making up 500 MB of words takes longer than reading them.
    pieces: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        while written < size_bytes:
            text = piece(number, source) if number < 10_000 else pieces[number % 9_999 + 1]
            if number < 10_000:
                pieces.append(text)
            written += file.write(text)
            number += 1
        file.write("]}\n" if piece is telegram else "")
    return path


def mix(folder: Path, megabytes: int) -> None:
    """Half notes in many files, the rest exports of every common kind."""
    size = megabytes << 20
    for number in range(size // 2 // 20_000):
        write(folder / "notes" / f"{number // 100:03}" / f"{number:05}.md", 20_000, note, seed=number)
    for name, piece, share in (
        ("All mail.mbox", mbox, 5), ("train.jsonl", jsonl, 10), ("result.json", telegram, 10),
        ("WhatsApp Chat with A.txt", whatsapp, 20), ("page.html", html, 20),
    ):  # fmt: skip
        write(folder / name, size // share, piece, seed=share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--mix", type=int)
    chosen = parser.parse_args()
    if chosen.mix:
        if chosen.folder is None:
            parser.error("--mix writes into a folder: name it with --folder")
        mix(chosen.folder, chosen.mix)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for name, piece in (("a.mbox", mbox), ("a.jsonl", jsonl), ("result.json", telegram)):
            path = write(Path(folder) / name, chosen.megabytes << 20, piece)
            print(f"{name:<12} {path.stat().st_size / 2**20:>6.0f} MB", end="  ", flush=True)
            subprocess.run([sys.executable, "-c", READ, str(path), "Ben, Ben Okoro"], cwd=ROOT, check=True)
            path.unlink()


if __name__ == "__main__":
    main()
