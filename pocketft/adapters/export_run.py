"""`pocketft export` without the command line: one adapter in, one file or folder out, for a runtime that takes it.

Everything that can be refused is refused before anything is written, and what is written is whole or not there.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pocketft.adapters.card import model_card
from pocketft.adapters.export_base import ExportBase, Report, open_export_base, recorded_base
from pocketft.adapters.export_gguf import check_carried, gguf_order, write_gguf_adapter, write_gguf_adapter_file
from pocketft.adapters.export_merged import SHARD_BYTES, Rounding, write_merged_folder
from pocketft.adapters.export_merged_gguf import merged_tensors, write_merged_gguf, write_merged_gguf_file
from pocketft.adapters.export_modelfile import modelfile_apart
from pocketft.adapters.export_names import gguf_names
from pocketft.adapters.export_ollama import choose, installed_version, parse_version
from pocketft.adapters.export_peft import shareable, write_peft_folder
from pocketft.adapters.folder import CARD_FILE, FolderAdapter, check_output, printable, read_adapter
from pocketft.adapters.state import AdapterState
from pocketft.errors import AdapterError, UsageError
from pocketft.files import atomic_folder, require_space
from pocketft.memory.guard import Guard
from pocketft.models.base_model import load_config_reader
from pocketft.models.gguf_file import read_gguf

_OLLAMA_FILES = ("Modelfile", "model.gguf", "base.gguf", "adapter.gguf")
_MERGED_FILES = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|README\.md|config\.json"
    r"|(generation|tokenizer|special_tokens|added_tokens|preprocessor|processor)[\w.]*\.json|chat_template\.\w+|vocab\.\w+"
    r"|merges\.txt|tokenizer\.model"
)


@dataclass(frozen=True)
class ExportRequest:
    """`to`: gguf, ollama, merged or peft. `quantize` ("q8_0" or "f16") asks for a merged GGUF, `dtype` ("f16" or
    "bf16") for safetensors of that kind; `model` says where the base is, where the adapter does not.
    """

    run: Path
    to: str
    output: Path
    guard: Guard
    quantize: str | None = None
    dtype: str | None = None
    model: str | None = None
    ollama_version: str | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportResult:
    """`rounding` is the noise that the file's numbers add to the adapted layers, as a part of the update's size."""

    output: str
    to: str
    runtime: str
    files: tuple[str, ...]
    size_bytes: int
    rounding: float | None = None
    commands: tuple[str, ...] = ()


@dataclass
class _Job:
    """One export under way."""

    request: ExportRequest
    adapter: FolderAdapter
    report: Report

    def notice(self, message: str) -> None:
        self.report({"event": "notice", "level": "info", "message": message})

    def progress(self, done: int, total: int) -> None:
        self.request.guard.is_tight(0)  # raises where the cap was crossed
        self.report({"event": "progress", "task": "writing", "done": done, "total": total, "unit": "B"})

    def base(self) -> ExportBase:
        name, quantization = recorded_base(self.adapter, self.request.model)
        return open_export_base(self.adapter.info, name, quantization, self.report, self.request.guard.cap_bytes)


def export(request: ExportRequest, report: Report) -> ExportResult:
    """Raises UsageError or AdapterError, before anything is written, where no runtime takes what was asked for, and
    MemoryCapError.
    """
    _check_options(request)
    adapter = read_adapter(request.run)
    if adapter.info.problems:
        raise AdapterError(f"{adapter.info.label} cannot be exported: {adapter.info.problems[0]}")
    _check_finite(adapter)
    job = _Job(request, adapter, report)
    if request.to != "peft":
        load_config_reader()  # outside the limit, inside which an import that fails prints to where answers go
    with request.guard.kept():
        return _EXPORTS[request.to](job)


def _gguf(job: _Job) -> ExportResult:
    output = job.request.output
    _check_file(output, job.request.force)
    base = job.base()
    names = gguf_names(base.config)
    if base.model.quantization != "gguf":
        job.notice(
            f"trained on {base.model.quantization} weights: any GGUF of the same model takes the adapter, and the "
            "closer its quantization, the closer the answers"
        )
    write_gguf_adapter(output, job.adapter, names)
    base_file = base.gguf or "BASE.gguf"
    return _result(
        job,
        "llama.cpp, and what is built on it, with --lora",
        [output],
        commands=[f"llama-cli -m {base_file} --lora {output}"],
    )


def _merged(job: _Job) -> ExportResult:
    if job.request.quantize is not None:
        return _merged_gguf(job, job.request.quantize)
    output = job.request.output
    _check_folder(output, job.request.force, lambda name: _MERGED_FILES.fullmatch(name) is not None)
    check_carried(job.adapter.info)
    base = job.base()
    dtype = job.request.dtype or _dtype(base)
    if base.model.quantization != "bf16":
        job.notice(f"the adapter is added to the values that it was trained on ({base.model.quantization}), in {dtype}")
    card = _merged_card(job.adapter, dtype)
    rounding = write_merged_folder(
        output,
        job.adapter,
        base,
        dtype,
        extra_files={CARD_FILE: card},
        shard_bytes=SHARD_BYTES,
        progress=job.progress,
    )
    files = sorted(output.iterdir())
    command = f'transformers: AutoModelForCausalLM.from_pretrained("{output}")'
    return _result(job, "transformers, vLLM and what else loads a model folder", files, rounding, [command])


def _merged_gguf(job: _Job, quantize: str) -> ExportResult:
    output = job.request.output
    _check_file(output, job.request.force)
    check_carried(job.adapter.info)
    base = job.base()
    rounding = write_merged_gguf(
        output, job.adapter, _gguf_of(base, job), gguf_names(base.config), quantize, job.progress
    )
    return _result(job, "llama.cpp and what is built on it", [output], rounding, [f"llama-cli -m {output}"])


def _ollama(job: _Job) -> ExportResult:
    request, output = job.request, job.request.output
    _check_folder(output, request.force, lambda name: name in _OLLAMA_FILES)
    check_carried(job.adapter.info)
    version = parse_version(request.ollama_version) if request.ollama_version else installed_version()
    base = job.base()
    names = gguf_names(base.config)
    source = base.require_gguf("an Ollama folder")
    choice = choose(names.architecture, version)
    fold = request.quantize is not None or not choice.takes_adapter
    if not choice.takes_adapter:
        job.notice(f"{choice.reason}: the adapter is folded into the model, which every Ollama takes")
    quantize = request.quantize or "q8_0"
    text, notices = modelfile_apart(
        base.model.config_dir,
        _end_ids(base),
        "model.gguf" if fold else "base.gguf",
        None if fold else "adapter.gguf",
    )
    for message in notices:
        job.notice(message)
    rounding = None
    if fold:
        source = _gguf_of(base, job)
        file = read_gguf(source)
        targets = merged_tensors(file, job.adapter, names, quantize)
        require_space(output, sum(target.nbytes for target in targets))
        with atomic_folder(output) as folder:
            rounding = write_merged_gguf_file(folder / "model.gguf", file, targets, quantize, job.progress)
            (folder / "Modelfile").write_text(text, encoding="utf-8")
    else:
        order = gguf_order(job.adapter.info, names)
        require_space(output, source.stat().st_size + 4 * job.adapter.info.parameters)
        with atomic_folder(output) as folder:
            write_gguf_adapter_file(folder / "adapter.gguf", job.adapter, names, order)
            shutil.copyfile(source, folder / "base.gguf")
            (folder / "Modelfile").write_text(text, encoding="utf-8")
    name = re.sub(r"[^a-z0-9._-]+", "-", output.resolve().name.lower()).strip("-.") or "pocketft"
    commands = [f"ollama create {name} -f {output / 'Modelfile'}", f"ollama run {name}"]
    return _result(job, "Ollama", sorted(output.iterdir()), rounding, commands)


def _peft(job: _Job) -> ExportResult:
    output = job.request.output
    check_output(output, force=job.request.force)
    write_peft_folder(output, job.adapter, force=job.request.force)
    command = f'peft: PeftModel.from_pretrained(base, "{output}")'
    return _result(
        job, "transformers with PEFT, vLLM and what else loads adapters", sorted(output.iterdir()), None, [command]
    )


_EXPORTS: dict[str, Callable[[_Job], ExportResult]] = {
    "gguf": _gguf,
    "ollama": _ollama,
    "merged": _merged,
    "peft": _peft,
}


def _gguf_of(base: ExportBase, job: _Job) -> Path:
    source = base.require_gguf("a merged GGUF")
    if base.model.quantization != "gguf":
        job.notice(
            f"the adapter was trained on {base.model.quantization} values, and is added to the GGUF's own: "
            "its answers may differ a little"
        )
    return source


def _dtype(base: ExportBase) -> str:
    """bf16 where the base is in bf16 itself; float16 keeps three bits more of everything else."""
    store = base.model.store
    kinds = {tensor.kind for block in store.block_names() for tensor in store.block_spec(block).tensors}
    return "bf16" if "bf16" in kinds else "f16"


def _end_ids(base: ExportBase) -> list[int]:
    named = base.config.eos_token_id
    return [number for number in (named if isinstance(named, list) else [named]) if isinstance(number, int)]


def _merged_card(adapter: FolderAdapter, dtype: str) -> str:
    info = shareable(adapter.info)
    lines = model_card(info).split("```python")[0].replace("library_name: peft", "library_name: transformers")
    lines = lines.replace("tags: [lora, pocketft]", "tags: [pocketft]").replace(
        "# LoRA adapter", "# Model with a LoRA adapter"
    )
    return f"{lines}The adapter is folded into the weights, which are in {dtype}; nothing else is needed to run it.\n"


def _check_options(request: ExportRequest) -> None:
    if request.to not in _EXPORTS:
        raise UsageError(f"--to {request.to!r:.40} is none of {', '.join(_EXPORTS)}")
    if request.quantize is not None and request.to not in ("merged", "ollama"):
        raise UsageError("--quantize belongs to --to merged or --to ollama; an adapter keeps its own numbers")
    if request.dtype is not None and (request.to != "merged" or request.quantize is not None):
        raise UsageError("--dtype belongs to --to merged without --quantize")
    if request.ollama_version is not None and request.to != "ollama":
        raise UsageError("--ollama-version belongs to --to ollama")
    if request.output.resolve() == request.run.resolve():
        raise UsageError(f"{request.output} is the adapter itself; choose another place with --output")


def _check_file(output: Path, force: bool) -> None:
    if output.is_dir() or output.suffix != ".gguf":
        raise UsageError(f"a GGUF is one file: give --output a name such as {output.name or 'adapter'}.gguf")
    if output.exists() and not force:
        raise UsageError(f"{output} is already there; choose another name, or --force to replace it")


def _check_folder(output: Path, force: bool, own: Callable[[str], bool]) -> None:
    if output.is_file():
        raise UsageError(f"{output} is a file; name a folder to write to")
    content = sorted(entry.name for entry in output.iterdir()) if output.is_dir() else []
    if content and not force:
        raise UsageError(f"{output} is not empty; choose another folder, or --force to replace it")
    foreign = next((name for name in content if not own(name)), None)
    if foreign is not None:
        raise UsageError(
            f"{output} also holds {printable(foreign)}, which replacing it would delete; choose another folder"
        )


def _check_finite(adapter: AdapterState) -> None:
    for module in adapter.info.modules:
        factors = adapter.factors(module)
        numbers = bool(torch.isfinite(factors.a).all()) and bool(torch.isfinite(factors.b).all())
        if not numbers or not math.isfinite(factors.scaling):
            raise AdapterError(f"{adapter.info.label}: {module:.100} holds values that are no numbers; train it again")


def _result(
    job: _Job, runtime: str, files: Sequence[Path], rounding: Rounding | None = None, commands: Sequence[str] = ()
) -> ExportResult:
    if rounding is not None and rounding.ratio > 1:
        job.notice(
            f"the file's numbers are coarse beside what was learned (rounding is {rounding.ratio:.1f} times its size, "
            "in random directions): f16 keeps it better"
        )
    return ExportResult(
        output=str(job.request.output),
        to=job.request.to,
        runtime=runtime,
        files=tuple(file.name for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
        rounding=None if rounding is None else rounding.ratio,
        commands=tuple(commands),
    )
