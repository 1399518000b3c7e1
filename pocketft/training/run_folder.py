"""The run folder: a PEFT adapter folder with everything needed to look at, continue or share the run.

    adapter_config.json, adapter_model.safetensors   written as PEFT writes them: `PeftModel.from_pretrained(run)` works
    README.md           model card; names no local path and no text of the person's
    pocketft.json       where the adapter comes from and how good it is
    recipe.yaml         the resolved recipe
    log.jsonl           one event a line
    checkpoints/        what `--resume` continues from

Knows names and formats. The adapter at the root is always whole and always the best so far, also while a run goes on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pocketft.errors import AdapterError, CheckpointError, StorageError, UsageError
from pocketft.files import atomic_path, storage_errors, write_json, write_text
from pocketft.training.events import EventLog
from pocketft.training.model_card import model_card
from pocketft.training.tensor_file import save_tensors

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

FORMAT = 1
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
INFO = "pocketft.json"
RECIPE = "recipe.yaml"
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
_WRITTEN = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, RECIPE, CHECKPOINTS, INFO)  # INFO last: it marks it as ours


@dataclass(frozen=True)
class RunInfo:
    """`pocketft.json`. The run has come to `steps`; the adapter at the root is that of step `kept_step`."""

    base: dict[str, Any]  # name, artifact_sha256, revision, quantization, architecture, tokenizer_sha256, licence
    tokens: int = 0
    examples: int = 0
    steps: int = 0
    kept_step: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)  # loss, eval_loss, base_eval_loss
    plan: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    parents: tuple[dict[str, Any], ...] = ()
    group: str | None = None  # of the common start that it grew from
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": "lora", **asdict(self), "parents": list(self.parents)}


class RunFolder:
    """Names the files of one run and writes them. Nothing is touched before `start` or `tidy`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / LOG
        self.checkpoints = path / CHECKPOINTS
        self.adapter = path / ADAPTER_WEIGHTS

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse a folder that cannot be written as asked, before anything expensive is done.

        Raises UsageError or StorageError.
        """
        if resume and force:
            raise UsageError("--resume continues a run and --force replaces it; give one of the two")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; choose a folder with --output")
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write {self.path}: {parent} is read-only for you; choose another --output")
        if not self._is_occupied():
            if resume:
                raise UsageError(f"nothing to resume: {self.path} holds no run; leave --resume out to start one")
        elif not is_run_folder(self.path):
            raise UsageError(f"{self.path} holds files of somebody else; choose another folder with --output")
        elif not resume and not force:
            raise UsageError(
                f"{self.path} already holds a run; continue it with --resume, replace it with --force, "
                "or choose another folder with --output"
            )

    def start(self, info: RunInfo, recipe_yaml: str, *, resume: bool = False, force: bool = False) -> EventLog:
        """Begin a new run; what an older run wrote here goes, and nothing else does. Returns its log, which is locked.

        The lock comes first, and the check again under it: another process may have begun, or ended, a run here since.
        Raises UsageError, with nothing touched.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            log = undo.enter_context(EventLog(self.log))
            self.check(resume=resume, force=force)
            self.tidy()
            with storage_errors(self.path):
                os.truncate(self.log, 0)  # in place: the lock is the file's, and another file could be locked again
                for name in _WRITTEN:
                    _remove(self.path / name)
            self.write_info(info)
            write_text(self.path / RECIPE, recipe_yaml)
            undo.pop_all()
        return log

    def tidy(self) -> None:
        """Remove what a killed process left half written."""
        with storage_errors(self.path):
            for path in self._half_written():
                _remove(path)

    def _is_occupied(self) -> bool:
        """An empty log is nothing yet: a process that is killed right after it took the lock leaves no more."""
        if not self.path.is_dir():
            return False
        nothing = set(self._half_written())
        if self.log.is_file() and self.log.stat().st_size == 0:
            nothing.add(self.log)
        return not set(self.path.iterdir()) <= nothing

    def _half_written(self) -> list[Path]:
        """Temporary files of `files.atomic_path`: ".<one of our names>.<eight characters>.tmp"."""
        names = "|".join(map(re.escape, _WRITTEN))
        pattern = re.compile(rf"\.({names})\.\w{{8}}\.tmp")
        return [path for path in self.path.glob(".*.tmp") if pattern.fullmatch(path.name)]

    def write_info(self, info: RunInfo) -> None:
        write_json(self.path / INFO, info.to_json())

    def write_adapter(self, state: dict[str, Tensor], config: LoraConfig, info: RunInfo) -> None:
        """The adapter, its configuration and what is known of it. The weights are replaced in one move, last: where it
        fails on the way they are still those of before.
        """
        write_text(self.path / ADAPTER_CONFIG, _config_text(config, info.base["name"]))
        write_text(self.path / CARD, model_card(info.to_json(), config.r, config.lora_alpha))
        self.write_info(info)
        with (
            atomic_path(self.adapter) as temporary,
            # a folder of its own: safetensors makes a temporary file too, under a name that `tidy` would not know
            TemporaryDirectory(dir=self.path, prefix=f".{ADAPTER_WEIGHTS}.", suffix=".tmp") as folder,
        ):
            save_tensors(state, Path(folder) / ADAPTER_WEIGHTS)
            (Path(folder) / ADAPTER_WEIGHTS).replace(temporary)

    def restore_adapter(self, weights: Path) -> None:
        """Put back the best adapter that a checkpoint knew: a later one belongs to steps that are done again."""
        with atomic_path(self.adapter) as temporary:
            shutil.copyfile(weights, temporary)


def is_run_folder(path: Path) -> bool:
    """Whether pocketft made this folder."""
    try:
        read_info(path)
    except (AdapterError, CheckpointError):
        return False
    return True


def read_info(path: Path) -> dict[str, Any]:
    """`pocketft.json` of a run or merge. Raises AdapterError where it is missing, damaged or of a newer program."""
    file = path / INFO
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path} is no pocketft run, it has no {INFO}; `pocketft runs` lists runs") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} cannot be read ({type(error).__name__}); restore the folder from a copy") from error
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise AdapterError(f"{file} is not pocketft's; name a folder that `pocketft train` or `merge` wrote")
    if info["format"] > FORMAT:
        raise AdapterError(f"{file} has format {info['format']}, this program reads {FORMAT}; update pocketft")
    return info


def _config_text(config: LoraConfig, base_name: str) -> str:
    """`adapter_config.json` as PEFT saves it, with lists in a fixed order and no path of this machine."""
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        values = json.loads((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if isinstance(values.get("target_modules"), list):
        values["target_modules"].sort()
    values["base_model_name_or_path"] = base_name
    values["inference_mode"] = True
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
