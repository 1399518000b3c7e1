"""`pocketft merge` and `inspect` as a person or a script meets them."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketft.adapters.folder import read_adapter
from tests.adapters.build import adapter, dense, distance, mean, write
from tests.cli.run_cli import Ran, pocketft

__all__ = ["pocketft"]

Cli = Callable[..., Ran]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / f"a{i}", adapter(i), provenance={"tokens": 1000 * (i + 1)})) for i in range(3)]


def test_merge_prints_what_it_did(pocketft: Cli, folders: list[str]) -> None:
    ran = pocketft("merge", *folders, "-o", "m")
    assert ran.code == 0
    assert "16.7%" in ran.out and "energy lost" in ran.out and "merged into m" in ran.out
    assert (Path("m") / "README.md").is_file()


def test_merge_json_is_one_object_and_notices_go_to_stderr(pocketft: Cli, folders: list[str], tmp_path: Path) -> None:
    silent = str(write(tmp_path / "silent", adapter(9)))
    ran = pocketft("merge", *folders, silent, "--output", "m", "--json")
    found = json.loads(ran.out)
    assert found["adapter"] == "m" and found["method"] == "exact" and len(found["adapters"]) == 4
    assert found["energy_kept"] > 0.98 and found["check"] is None
    assert "count equally" in ran.err and found["weights_by"] == "equal"


def test_options_reach_the_merge(pocketft: Cli, folders: list[str]) -> None:
    assert pocketft("merge", *folders, "-o", "m", "--weights", "2,1,1", "--lossless").code == 0
    merged = dense(read_adapter(Path("m")))
    assert distance(merged, mean([adapter(i) for i in range(3)], [2, 1, 1])) < 1e-5
    ran = pocketft("merge", *folders, "-o", "n", "--method", "ties", "--density", "0.4", "--rank", "3", "--json")
    assert json.loads(ran.out)["rank"] == 3
    ran = pocketft("merge", *folders, "-o", "o", "--clip", "1.5", "--robust", "geomedian", "--json")
    found = json.loads(ran.out)
    assert found["clip"] == "1.5" and found["robust"] == "geomedian"
    assert all(one["clip_scale"] < 1 for one in found["adapters"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--weights", "a,b"), 2, "not a list of numbers"),
        (("--weights", "1,2"), 2, "2 weights for 3"),
        (("--clip", "some"), 2, "neither none nor median"),
        (("--rank", "3", "--lossless"), 2, "give one of them"),
        (("--model", "x"), 2, "--check"),
        (("--check", "nowhere.txt"), 2, "no such file"),
        (("--robust", "multikrum"), 2, "at least 4"),
        (("--method", "ffa"), 1, "share one frozen A"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    pocketft: Cli, folders: list[str], words: tuple[str, ...], code: int, said: str
) -> None:
    ran = pocketft("merge", *folders, "-o", "m", *words)
    assert ran.code == code and said in ran.err and not ran.out
    assert len(ran.err.strip().splitlines()) == 1
    assert not Path("m").exists()


def test_an_existing_folder_needs_force(pocketft: Cli, folders: list[str]) -> None:
    assert pocketft("merge", *folders, "-o", "m").code == 0
    assert pocketft("merge", *folders, "-o", "m").code == 2
    assert pocketft("merge", *folders, "-o", "m", "--force").code == 0


def test_check_scores_through_the_training_room(
    pocketft: Cli, folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def score_factors(
        name: str, quantization: str, ranks: Any, adapters: Any, texts: Any, cap: int, report: Any
    ) -> list[float]:
        asked.update(name=name, texts=texts, ranks=ranks, cap=cap)
        return [3.0 if not candidate else 2.0 + 0.01 * index for index, candidate in enumerate(adapters)]

    scoring = types.ModuleType("pocketft.training.scoring")
    scoring.score_factors = score_factors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pocketft.training.scoring", scoring)
    text = tmp_path / "held-out.txt"
    text.write_text("Hello.")
    ran = pocketft("merge", *folders, "-o", "m", "--check", str(text), "--memory", "64GB", "--json")
    check = json.loads(ran.out)["check"]
    assert check["base_loss"] == 3.0 and check["merge_loss"] == 2.01 and len(check["losses_without"]) == 3
    assert asked["name"] == "smollm2-135m" and asked["texts"] == (text,) and asked["cap"] == 64 << 30
    record = json.loads((Path("m") / "pocketft.json").read_text())
    assert record["metrics"]["eval_loss"] == 2.01
    assert "3.0000" in pocketft("merge", *folders, "-o", "n", "--check", str(text)).out


def test_inspect_shows_one_and_compares_several(pocketft: Cli, folders: list[str]) -> None:
    one = pocketft("inspect", folders[0])
    assert one.code == 0 and "effective rank" in one.out and "q_proj" in one.out and "smollm2-135m" in one.out
    found = json.loads(pocketft("inspect", folders[0], "--json").out)
    assert found["rank"] == 4 and found["provenance"]["tokens"] == 1000
    several = pocketft("inspect", *folders)
    assert "can be merged" in several.out
    found = json.loads(pocketft("inspect", *folders, "--json").out)
    assert len(found["adapters"]) == 3 and found["comparison"]["can_merge"] is True


def test_inspect_of_what_cannot_be_merged_says_why(pocketft: Cli, folders: list[str], tmp_path: Path) -> None:
    dora = str(write(tmp_path / "dora", adapter(5), config={"use_dora": True}))
    ran = pocketft("inspect", folders[0], dora)
    assert ran.code == 0 and "cannot be merged" in ran.out and "DoRA" in ran.out
    refused = pocketft("merge", folders[0], dora, "-o", "m")
    assert refused.code == 1 and "DoRA" in refused.err
