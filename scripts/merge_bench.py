"""How long a merge takes and how much memory it needs, at the shape of a 0.6B model: 196 modules, rank 16.

    python scripts/merge_bench.py [--adapters 2 20] [--folder DIR]

The adapters are random, which is the worst case: their updates share nothing, so no rank can be saved. Each merge runs
in a process of its own; peak memory is that process's VmHWM, interpreter and torch included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, QUERY, KEY, INTERMEDIATE, LAYERS, RANK = 1024, 2048, 1024, 3072, 28, 16
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, QUERY),
    "self_attn.k_proj": (HIDDEN, KEY),
    "self_attn.v_proj": (HIDDEN, KEY),
    "self_attn.o_proj": (QUERY, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}

_MERGE = """
import json, sys, time
from pathlib import Path
import torch
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.merge_files import merge_files
from pocketft.memory.meter import peak_rss_bytes
settings, output, *paths = sys.argv[1:]
start = time.perf_counter()
outcome = merge_files([Path(path) for path in paths], Path(output), MergeSettings(**json.loads(settings)))
elapsed_s = time.perf_counter() - start
print(json.dumps({"elapsed_s": elapsed_s, "peak_bytes": peak_rss_bytes(), "rank": outcome.report.rank}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--folder", type=Path, help="where to put the adapters; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        paths = [write_adapter(folder / f"adapter-{index}", index) for index in range(max(arguments.adapters))]
        for count in arguments.adapters:
            for settings in ({}, {"rank": 16}, {"lossless": True}):
                measure(paths[:count], settings, folder / "merge")


def write_adapter(path: Path, seed: int) -> Path:
    import torch
    from safetensors.torch import save_file

    if (path / "adapter_model.safetensors").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for projection, (width_in, width_out) in PROJECTIONS.items():
            name = f"base_model.model.model.layers.{layer}.{projection}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width_in) / width_in**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(width_out, RANK) * 0.01
    save_file(tensors, path / "adapter_model.safetensors")
    targets = [projection.split(".")[1] for projection in PROJECTIONS]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": targets}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def measure(paths: list[Path], settings: dict[str, object], output: Path) -> None:
    start = time.perf_counter()
    command = [sys.executable, "-c", _MERGE, json.dumps(settings), str(output), *map(str, paths)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for file in output.iterdir():
        file.unlink()
    print(
        f"{len(paths):3d} adapters  {json.dumps(settings):20s} rank {found['rank']:4d}  "
        f"merge {found['elapsed_s']:6.2f} s  whole process {time.perf_counter() - start:6.2f} s  "
        f"peak {found['peak_bytes'] / 2**20:4.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
