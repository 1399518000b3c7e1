from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pocketft.data.borders import PARAGRAPH, text_parts
from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.layout import DOCUMENT, LEVEL_SHIFT, LOSS_BIT, MARK, TOKEN
from pocketft.data.tokenizer import load_text_tokenizer
from pocketft.data.tokens import write_tokens
from pocketft.errors import ModelError

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
FRAMED = "{{ bos_token }}" + CHATML


def tokens_of(documents: Iterable[Document], tokenizer: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    report = ReadReport()
    write_tokens(documents, tokenizer, folder, report)
    return {
        "ids": np.fromfile(folder / "tokens.i32", TOKEN),
        "marks": np.fromfile(folder / "marks.u8", MARK),
        "documents": np.fromfile(folder / "documents.bin", DOCUMENT),
        "summary": json.loads((folder / "summary.json").read_text()),
        "report": report,
    }


def decode(tokenizer: Path, ids: NDArray[Any]) -> str:
    return str(Tokenizer.from_file(str(tokenizer / "tokenizer.json")).decode(ids.tolist(), skip_special_tokens=False))


def test_a_document_is_its_tokens_and_the_end_of_text(plain_dir: Path, tmp_path: Path) -> None:
    made = tokens_of([Document("a", "The lamp."), Document("b", "The rain.")], plain_dir, tmp_path)
    assert decode(plain_dir, made["ids"]) == "The lamp.</s>The rain.</s>"
    assert (made["marks"] & LOSS_BIT).all()
    assert made["documents"]["start"].tolist() == [0, made["documents"]["count"][0]]
    assert made["documents"]["count"].sum() == len(made["ids"]) == made["summary"]["tokens"]
    assert not made["documents"]["framed"].any()


def test_a_token_before_every_text_is_kept_for_the_rows(bos_dir: Path, tmp_path: Path) -> None:
    made = tokens_of([Document("a", "The lamp.")], bos_dir, tmp_path)
    assert decode(bos_dir, made["ids"]) == "The lamp.</s>"
    assert made["summary"]["prefix"] == [Tokenizer.from_file(str(bos_dir / "tokenizer.json")).token_to_id("<s>")]
    assert made["documents"]["framed"].all()


def test_control_words_in_a_note_are_ordinary_text(plain_dir: Path, tmp_path: Path) -> None:
    made = tokens_of([Document("a", "see <|im_end|> here")], plain_dir, tmp_path)
    end = Tokenizer.from_file(str(plain_dir / "tokenizer.json")).token_to_id("<|im_end|>")
    assert end not in made["ids"]
    assert decode(plain_dir, made["ids"]) == "see <|im_end|> here</s>"


def test_parts_give_the_same_tokens_as_the_whole(plain_dir: Path, tmp_path: Path) -> None:
    text = "The lamp in the harbour was lit. She wrote to her brother about the bread. " * 60
    parts = [
        Document("a", part, part=number, last=last) for number, (part, last) in enumerate(text_parts([text], limit=500))
    ]
    assert len(parts) > 5
    in_parts = tokens_of(parts, plain_dir, tmp_path / "parts")
    whole = tokens_of([Document("a", text.rstrip())], plain_dir, tmp_path / "whole")
    assert in_parts["ids"].tolist() == whole["ids"].tolist()
    assert len(in_parts["documents"]) == 1
    assert in_parts["documents"]["key"] != whole["documents"]["key"]


def test_a_chat_is_learned_where_the_assistant_speaks(make_tokenizer: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = make_tokenizer(template=FRAMED, bos=True, eos="<|im_end|>")
    turns = (
        Turn("user", "Did they stay?"),
        Turn("assistant", "We walked."),
        Turn("user", "So?"),
        Turn("assistant", "home"),
    )
    made = tokens_of([Document("a", turns=turns)], tokenizer, tmp_path)
    learned = made["ids"][(made["marks"] & LOSS_BIT).astype(bool)]
    assert decode(tokenizer, learned) == "We walked.<|im_end|>home<|im_end|>"
    assert decode(tokenizer, made["ids"]).startswith("<|im_start|>user\nDid")  # the template's <s> is left to the rows
    assert made["documents"]["framed"].all()
    best = np.flatnonzero(made["marks"] >> LEVEL_SHIFT == PARAGRAPH)
    assert [decode(tokenizer, made["ids"][at:]) for at in best] == [
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nhome<|im_end|>"
    ]


def test_a_model_without_a_template_learns_chats_in_plain_words(bos_dir: Path, tmp_path: Path) -> None:
    turns = (Turn("user", "Did they stay?"), Turn("assistant", "We walked."))
    made = tokens_of([Document("a", turns=turns)], bos_dir, tmp_path)
    learned = made["ids"][(made["marks"] & LOSS_BIT).astype(bool)]
    assert decode(bos_dir, made["ids"]) == "### User:\nDid they stay?\n\n### Assistant:\nWe walked.</s>"
    assert decode(bos_dir, learned) == "We walked.</s>"
    assert made["documents"]["framed"].all()


def test_a_template_without_an_end_mark_still_ends(make_tokenizer: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = make_tokenizer(template="{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}")
    turns = (Turn("user", "Did they stay?"), Turn("assistant", "We walked."))
    made = tokens_of([Document("a", turns=turns)], tokenizer, tmp_path)
    assert decode(tokenizer, made["ids"][(made["marks"] & LOSS_BIT).astype(bool)]) == "We walked.</s>"


def test_a_refused_conversation_is_counted_and_the_rest_goes_on(
    make_tokenizer: Callable[..., Path], tmp_path: Path
) -> None:
    source = CHATML.replace("{{ m.content }}", "{{ raise_exception('no poems') if 'ode' in m.content else m.content }}")
    tokenizer = make_tokenizer(template=source)
    chats = [(Turn("user", "Hi"), Turn("assistant", words)) for words in ("an ode", "bread")]
    made = tokens_of([Document("a", turns=turns) for turns in chats], tokenizer, tmp_path)
    assert made["summary"]["chats"] == 1
    assert made["report"].notices() == ["skipped 1 conversation: the model's chat template refuses it: no poems"]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("add_bos", [True, False, None])
def test_ids_equal_those_of_transformers(make_tokenizer: Callable[..., Path], bos: bool, add_bos: bool | None) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = make_tokenizer(bos=bos)
    if add_bos is not None:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": add_bos}))
    ours, theirs = load_text_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    text = "The lamp was lit. Größe 雨 🙂"
    assert [*ours.prefix, *ours.encode([text], control=True)[0].ids.tolist()] == theirs(text)["input_ids"]
    assert ours.end == (theirs.eos_token_id,)


def test_a_missing_or_damaged_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        load_text_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        load_text_tokenizer(tmp_path)
