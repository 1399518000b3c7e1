"""Talking to a base model with its adapter, and without it: a conversation in the model's own template.

The model is held as in training (dense, packed or streamed, whatever the cap allows) and transformers generates. The
text is rendered as it was for training, by the same template and tokenizer. Knows no terminal.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pocketft.training  # noqa: F401  before transformers: it loads the libraries without what is not used

# isort: split
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from pocketft.data.chat import ChatTemplate, plain_template
from pocketft.data.documents import Turn
from pocketft.data.tokenizer import TextTokenizer
from pocketft.data.tokenizer_files import chat_template_source
from pocketft.engine.model import EngineModel
from pocketft.errors import AdapterError, UsageError
from pocketft.memory.guard import hard_limit
from pocketft.memory.plan import Workload
from pocketft.training.evaluate import read_adapter, run_recipe
from pocketft.training.events import Event, Reporter
from pocketft.training.planned_model import PlannedModel
from pocketft.training.preparation import Base, build_planned, choose_plan, find_device, open_base, open_tokenizer
from pocketft.training.run_folder import read_info

_CONTEXT_TOKENS = 1024  # of the conversation, the answer included; older turns are left out beyond it
_ANSWER_TOKENS = 256
_SEED = 0  # the same conversation gets the same answers


@dataclass(frozen=True)
class Sampling:
    """Warm enough not to go round in circles, cool enough for a small model to stay with what it knows."""

    temperature: float = 0.6
    top_p: float = 0.9
    repetition_penalty: float = 1.1


def open_chat(run: Path, cap_bytes: int, report: Reporter) -> ChatSession:
    """Load the base and the adapter of `run` inside `cap_bytes`; the first time, `report` sees the base come.

    Raises AdapterError for a folder without a whole adapter, CapTooSmall where the model does not fit.
    """
    recipe = run_recipe(run, read_info(run))
    config, state = read_adapter(run)
    device = find_device("auto")
    base = open_base(recipe.model.name, recipe.model.quantization, report, cap_bytes)
    tokenizer = open_tokenizer(base, cap_bytes)
    work = Workload(
        1,
        _CONTEXT_TOKENS,
        _CONTEXT_TOKENS,
        micro_batch=1,
        optimizer_bytes=0,
        row_lengths=_CONTEXT_TOKENS,  # one token at a time, each sees one key more
        forward_only=True,
        cache_bytes=_cache_bytes(base),
    )
    config.inference_mode = False  # PEFT would freeze what the engine is to load
    lora: Any = config
    plan = choose_plan(base, lora, work, cap_bytes, device)
    with hard_limit(cap_bytes):
        model, planned = build_planned(base, lora, plan, device, seed=0)
        try:
            model.load_adapter_state(state)
        except ValueError as error:
            model.close()
            raise AdapterError(f"{run}: {error}; name a run that belongs to {base.public_name}") from error
    source = chat_template_source(base.model.config_dir) or plain_template(tokenizer)
    return ChatSession(model, planned, tokenizer, ChatTemplate(source, tokenizer), _stop_tokens(base, tokenizer))


class ChatSession:
    """One conversation. `use_adapter` may be switched between turns."""

    def __init__(
        self,
        model: EngineModel,
        planned: PlannedModel,
        tokenizer: TextTokenizer,
        template: ChatTemplate,
        stop_tokens: Sequence[int],
    ) -> None:
        self.use_adapter = True
        self._model, self._planned = model, planned
        self._tokenizer, self._template, self._stop_tokens = tokenizer, template, list(stop_tokens)
        self._turns: list[Turn] = []
        self._changes: list[Event] = []
        planned.report = self._changes.append
        torch.manual_seed(_SEED)

    def reset(self) -> None:
        """Forget the conversation; the next one is answered as if it were the first."""
        self._turns.clear()
        torch.manual_seed(_SEED)

    def reply(self, text: str) -> Iterator[str]:
        """Pieces of the answer as they come. Left early, the answer counts as far as it was read."""
        self._turns, prompt = self._with_room([*self._turns, Turn("user", text)])
        pieces: list[str] = []
        try:
            for piece in self._pieces(prompt):
                pieces.append(piece)
                yield piece
        finally:
            self._turns.append(Turn("assistant", "".join(pieces).strip()))

    def _with_room(self, turns: list[Turn]) -> tuple[list[Turn], list[int]]:
        """The conversation and its token ids, the oldest exchanges left out until an answer has room."""
        while True:
            text = self._template.render(turns, add_generation_prompt=True)
            (encoded,) = self._tokenizer.encode([text], control=True)
            ids: list[int] = encoded.ids.tolist()
            if len(ids) + _ANSWER_TOKENS <= _CONTEXT_TOKENS:
                return turns, ids
            if len(turns) == 1:
                raise UsageError(f"that message has {len(ids)} tokens; the limit is {_CONTEXT_TOKENS - _ANSWER_TOKENS}")
            turns = turns[2:]

    def take_changes(self) -> list[Event]:
        """What was done since the last call to stay within the cap."""
        taken = self._changes.copy()
        del self._changes[: len(taken)]
        return taken

    def check_memory(self) -> None:
        """Between two tokens. Raises MemoryCapError where the next would cross the cap."""
        self._planned.check_between_blocks()

    def _pieces(self, prompt: list[int]) -> Iterator[str]:
        generation = _Generation(self, prompt)
        shown, ids = "", []
        try:
            for token in generation:
                ids.append(token)
                text = self._tokenizer.backend.decode(ids, skip_special_tokens=True)
                if not text.endswith("\ufffd"):  # the rest of a character comes with the next token
                    yield text[len(shown) :]
                    shown = text
        finally:
            generation.stop()

    def generate(self, prompt: list[int], streamer: BaseStreamer, stop: StoppingCriteria) -> None:
        """Generate an answer to token ids, handing each token to `streamer`."""
        sampling = Sampling()
        config = GenerationConfig(
            max_new_tokens=_ANSWER_TOKENS,
            do_sample=True,
            top_k=0,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._stop_tokens,
            pad_token_id=self._stop_tokens[0],
        )
        ids = torch.tensor([prompt], device=self._model.device)
        adapter = nullcontext() if self.use_adapter else self._model.adapter_disabled()
        model: Any = self._model.model
        with torch.inference_mode(), adapter, hard_limit(self._planned.plan.cap_bytes):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([stop]),
            )


class _Generation(BaseStreamer):
    """Tokens of one answer, made by a thread of its own so that they can be read while they come."""

    def __init__(self, session: ChatSession, prompt: list[int]) -> None:
        self._tokens: queue.Queue[int | BaseException | None] = queue.Queue()
        self._stopped = threading.Event()
        self._prompt_seen = False
        self._check_memory = session.check_memory
        self._thread = threading.Thread(target=self._run, args=(session, prompt), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[int]:
        while (item := self._tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # transformers hands over the prompt first
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self._tokens.put(token)
        self._check_memory()

    def end(self) -> None:
        pass  # told by the end of the thread, which comes whatever happens

    def _run(self, session: ChatSession, prompt: list[int]) -> None:
        try:
            session.generate(prompt, self, _StopWhen(self._stopped))
        except BaseException as error:  # handed to whoever reads, who raises it
            self._tokens.put(error)
        finally:
            self._tokens.put(None)


class _StopWhen(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        done: Any = torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)
        return done


def _stop_tokens(base: Base, tokenizer: TextTokenizer) -> list[int]:
    """What ends an answer: the end of a document and whatever the model's configuration names."""
    named = base.config.eos_token_id
    own = named if isinstance(named, list) else [named]
    return list(dict.fromkeys([*tokenizer.end, *(token for token in own if isinstance(token, int))]))


def _cache_bytes(base: Base) -> int:
    """Keys and values of a full context, in float32 at worst."""
    config = base.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(_CONTEXT_TOKENS * config.num_hidden_layers * 2 * heads * head_dim * 4)
