"""Recipes: defaults, precedence, and every mistake told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketft.errors import RecipeError
from pocketft.recipe import Recipe, load_recipe, recipe_summary, shipped_recipes


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def problems(*arguments: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(*arguments)
    return caught.value.problems


def test_defaults_are_the_documented_ones() -> None:
    documented = {
        "model": {"name": "smollm2-135m", "quantization": "auto"},
        "data": {"max_seq_length": 512, "val_split": 0.05, "packing": True, "me": None, "column": None},
        "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear", "use_rslora": False},
        "training": {
            "epochs": 1,
            "micro_batch": "auto",
            "gradient_accumulation": 4,
            "learning_rate": 2e-4,
            "schedule": "cosine",
            "warmup_steps": 10,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optimizer": "adamw",
            "save_steps": 50,
            "seed": 0,
        },
        "eval": {"steps": 50, "early_stopping_patience": 3},
        "memory": {"max": None},
    }
    recipe = load_recipe().model_dump()
    for section, values in documented.items():
        assert {key: recipe[section][key] for key in values} == values


def test_default_recipe_file_says_the_defaults() -> None:
    assert load_recipe("default") == Recipe()


@pytest.mark.parametrize("name", ["default", "tiny-memory", "chat", "quality"])
def test_shipped_recipes_load_and_say_what_they_are_for(name: str) -> None:
    load_recipe(name)
    assert len(recipe_summary(shipped_recipes()[name])) > 20


def test_flags_win_over_set_over_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {seed: 1, epochs: 2, save_steps: 7}\n")
    recipe = load_recipe(path, ["training.seed=2", "training.epochs=3"], {"training.seed": 3, "model.name": None})
    assert (recipe.training.seed, recipe.training.epochs, recipe.training.save_steps) == (3, 3, 7)
    assert recipe.model.name == "smollm2-135m"
    assert recipe.lora.r == 8


@pytest.mark.parametrize("written", ["2e-4", "2E-4", "0.0002", ".0002", "+2e-4", "2.0e-4"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, written: str) -> None:
    assert load_recipe(write(tmp_path, f"training: {{learning_rate: {written}}}")).training.learning_rate == 2e-4
    assert load_recipe(None, [f"training.learning_rate={written}"]).training.learning_rate == 2e-4


def test_a_leading_zero_is_decimal_not_octal() -> None:
    assert load_recipe(None, ["lora.r=010"]).lora.r == 10


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_accepted(tmp_path: Path, encoding: str) -> None:
    assert load_recipe(write(tmp_path, "lora: {r: 4}\n".encode(encoding))).lora.r == 4


@pytest.mark.parametrize("text", ["", "# nothing\n", "lora:\n", "---\n"])
def test_an_empty_file_asks_for_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_recipe(write(tmp_path, text)) == Recipe()


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "lora:\n  rank: 8\n  alpha: x\n"
        "training:\n  epochs: 0\n  seed: 1\n  seed: 2\n  packing: true\n"
        "bogus: 1\nmemory: {max: 5}\n",
    )
    found = problems(path, ["lora.dropout=2", "nonsense", "model.quantization=q4", "lora.target_modules=[a"])
    for part in [
        "line 2: unknown key lora.rank (did you mean lora.r?)",
        "line 3: lora.alpha must be a whole number, not 'x'",
        "line 5: training.epochs must be greater than or equal to 1, not 0",
        "line 7: seed is given twice",
        "line 8: unknown key training.packing (did you mean data.packing?)",
        "line 9: unknown section 'bogus' (known: model, data, lora, training, eval, memory)",
        "line 10: memory.max must be a size with its unit, for example 1GB, or auto, not 5",
        "--set lora.dropout must be less than 1, not 2",
        "--set nonsense: write it as section.key=value, for example training.epochs=2",
        "--set model.quantization must be one of auto, bf16, int8, nf4, not 'q4'",
    ]:
        assert part in found
    assert any(
        problem.startswith("--set lora.target_modules=[a: line 1, column 3: not valid YAML") for problem in found
    )
    assert len(found) == 11


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learning_rate", "training.learning_rate"),
        ("training.learning-rate", "training.learning_rate"),
        ("training.learnig_rate", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("r", "lora.r"),
        ("lora.lora_alpha", "lora.alpha"),
        ("batch_size", "training.micro_batch"),
        ("data.max_seq_len", "data.max_seq_length"),
        ("trainig.seed", "training.seed"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(key: str, meant: str) -> None:
    (problem,) = problems(None, [f"{key}=1"])
    assert f"(did you mean {meant}?)" in problem


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("lora.r=true", "must be a whole number"),
        ("lora.r=8.5", "must be a whole number"),
        ("data.packing=1", "must be true or false"),
        ("training.learning_rate=.nan", "must be a number"),
        ("training.learning_rate=1e999", "must be a"),
        ("training.learning_rate=0", "must be greater than 0"),
        ("training.micro_batch=0", "must be auto or a whole number"),
        ("training.micro_batch=true", "must be auto or a whole number"),
        ("training.schedule=cosin", "must be one of cosine, linear, constant"),
        ("training.optimizer=sgd", "must be one of adamw, adamw8bit"),
        ("lora.target_modules=[]", "must be all-linear or names"),
        ("lora.target_modules=[all-linear, q_proj]", "must be all-linear or names"),
        ("lora.target_modules=[1]", "must be all-linear or names"),
        ("lora.r={a: 1}", "must be a whole number, not keys of its own"),
        ("model.name=", "must be text"),
        ("model.name=''", "must not be empty"),
        ("memory.max=fast", "must be a size"),
    ],
)
def test_values_out_of_range_or_of_another_kind_are_refused(setting: str, reason: str) -> None:
    (problem,) = problems(None, [setting])
    assert problem.startswith(f"--set {setting.partition('=')[0]} ")
    assert reason in problem


@pytest.mark.parametrize("written", ["q_proj,v_proj", "[q_proj, v_proj]", "'q_proj, v_proj,'"])
def test_target_modules_may_be_a_list_or_a_comma_string(written: str) -> None:
    assert load_recipe(None, [f"lora.target_modules={written}"]).lora.target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("written", "size_bytes"), [("700MB", 700 << 20), ("1GB", 1 << 30), ("auto", None), ("", None)]
)
def test_the_cap_is_a_size_or_left_open(written: str, size_bytes: int | None) -> None:
    assert load_recipe(None, [f"memory.max={written}"]).memory.max_bytes == size_bytes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text"),
        (b"lora: {r: 8}\x00", "control character"),
        (b"a" * 300_000, "larger than 256 KB"),
        (b"- lora\n- r\n", "must hold sections with keys"),
        (b"just words", "must hold sections with keys"),
        (b"lora: 3", "lora must hold keys"),
        (b"lora: [r, 8]", "lora must hold keys"),
        (b"lora: {r: 8", "not valid YAML"),
        (b"lora:\n\tr: 8", "not valid YAML"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"a: &x [1]\nb: *x\n", "aliases are not used"),
        (b"lora: {r: !!python/object/apply:os.getcwd []}", "not valid YAML"),
        (b"[" * 20_000, "nested too deeply"),
        (b"? [a, b]\n: 1\n", "a key must be a word"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert any(reason in problem for problem in problems(write(tmp_path, content)))


def test_a_missing_file_and_a_folder_name_the_shipped_recipes(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.yaml"), str(tmp_path)):
        (problem,) = problems(name)
        assert "tiny-memory" in problem


def test_a_written_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(
        None,
        [
            "training.learning_rate=1e-05",
            "lora.target_modules=q_proj,v_proj",
            "memory.max=700MB",
            "model.name=yes.gguf",
        ],
        {"model.name": "hf:owner/näme: {x}"},
    )
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


def test_a_recipe_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe().training.seed = 1  # type: ignore[misc]
