"""Whether adapters may be combined: the same base, told apart as exactly as what is known of it allows, and plain
LoRA on it.

An average of updates means something only if all of them are updates of the same weights. What differs is named field
by field, and what is unknown is said rather than assumed in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath

from pocketft.adapters.state import AdapterInfo, BaseIdentity
from pocketft.errors import AdapterError


def check_mergeable(infos: Sequence[AdapterInfo], *, allow_different_quantization: bool = False) -> list[str]:
    """Raises AdapterError with every difference; returns what could not be compared, as notices."""
    found = differences(infos, allow_different_quantization=allow_different_quantization)
    if found:
        more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
        raise AdapterError(f"these adapters cannot be merged: {'; '.join(found[:4])}{more}")
    return unknowns(infos)


def differences(infos: Sequence[AdapterInfo], *, allow_different_quantization: bool = False) -> list[str]:
    """Every reason not to combine these adapters, each naming the adapter and what differs; empty when they may."""
    found = [f"{info.label}: {problem}" for info in infos for problem in info.problems]
    return found + _base_differences(infos, allow_different_quantization) + _shape_differences(infos)


def unknowns(infos: Sequence[AdapterInfo]) -> list[str]:
    """What some of several adapters do not say about their base, so that it was taken to be the same."""
    if len(infos) < 2:
        return []
    notices = []
    fields: dict[str, Callable[[BaseIdentity], str | None]] = {
        "base model": lambda base: base.artifact_sha256 or base.name,
        "quantization of the base": lambda base: base.quantization,
        "tokenizer": lambda base: base.tokenizer_sha256,
    }
    for name, read in fields.items():
        silent = [info.label for info in infos if not read(info.base)]
        if silent and len(silent) < len(infos):
            notices.append(f"the {name} is not recorded in {', '.join(silent)}; taken to be that of the others")
    if not any(info.base.name or info.base.artifact_sha256 for info in infos):
        notices.append("no adapter says which base it was trained on; only their shapes could be compared")
    return notices


def _base_differences(infos: Sequence[AdapterInfo], allow_different_quantization: bool) -> list[str]:
    quantization = _odd_ones(infos, "quantization", lambda base: base.quantization)
    fields: list[tuple[str, Callable[[BaseIdentity], str | None]]] = [
        ("architecture", lambda base: base.architecture),
        ("tokenizer", lambda base: base.tokenizer_sha256),
        ("base revision", lambda base: base.revision),
    ]
    found = [line for name, read in fields for line in _odd_ones(infos, name, read)]
    if quantization and not allow_different_quantization:
        found += [
            f"{line} (--allow-different-quantization merges them if the model is otherwise the same)"
            for line in quantization
        ]
    # The bytes of the base are the best identity; a name is only asked where some adapter does not know them. Another
    # quantization has other bytes by nature, and a file of its own, whose name then says nothing.
    hashes_known = all(info.base.artifact_sha256 for info in infos)
    if hashes_known and not (quantization and allow_different_quantization):
        if not quantization:
            found += _odd_ones(infos, "base file", lambda base: base.artifact_sha256, named=True)
    else:
        files_allowed = bool(quantization) and allow_different_quantization
        found += _odd_ones(infos, "base", lambda base: None if files_allowed and _is_file(base.name) else base.name)
    return found


def _odd_ones(
    infos: Sequence[AdapterInfo], what: str, read: Callable[[BaseIdentity], str | None], *, named: bool = False
) -> list[str]:
    """Those whose value is known and is not the one that most adapters have."""
    known = [(info, value) for info in infos if (value := read(info.base))]
    if len({value for _, value in known}) < 2:
        return []
    usual = Counter(value for _, value in known).most_common(1)[0][0]
    reference = next(info for info, value in known if value == usual)

    def shown(info: AdapterInfo, value: str) -> str:
        short = value[:12] + "…" if len(value) == 64 else value
        return f"{info.base.name} {short}" if named and info.base.name else short

    return [
        f"{info.label} has the {what} {shown(info, value)} where {reference.label} has {shown(reference, usual)}"
        for info, value in known
        if value != usual
    ]


def _shape_differences(infos: Sequence[AdapterInfo]) -> list[str]:
    found = []
    for name in sorted({name for info in infos for name in info.modules}):
        holders = [info for info in infos if name in info.modules]
        shapes = {}
        for info in holders:
            module = info.modules[name]
            shapes[info.label] = f"{module.kind} {module.in_features} → {module.out_features}"
        usual, _ = Counter(shapes.values()).most_common(1)[0]
        found += [f"{label}: {name} is {shape}, elsewhere {usual}" for label, shape in shapes.items() if shape != usual]
    for name in sorted({name for info in infos for name in info.extras}):
        holders = [info for info in infos if name in info.extras]
        if len(holders) < len(infos):
            missing = next(info.label for info in infos if name not in info.extras)
            found.append(f"{holders[0].label} holds {name} as a whole tensor and {missing} does not")
        elif len({info.extras[name] for info in holders}) > 1:
            found.append(f"{name} has the shapes {', '.join(str(info.extras[name]) for info in holders)}")
    return found


def _is_file(name: str | None) -> bool:
    return bool(name) and (
        str(name).endswith(".gguf") or PurePath(str(name)).is_absolute() or str(name).startswith(".")
    )
