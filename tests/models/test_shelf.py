"""What `pocketft models` is told: the catalog, what is here, and what removing frees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pocketft.errors import ModelError
from pocketft.models import cache_home, list_models, path, remove, show
from tests.models.in_process import prepared_store
from tests.tiny_models import write_tiny_gguf


def test_the_catalog_is_listed_with_the_default_first() -> None:
    models = list_models()
    assert [model.name for model in models] == ["smollm2-135m", "gemma-3-270m"]
    assert [model.default for model in models] == [True, False]
    assert not any(model.cached for model in models)


def test_a_catalog_model_is_shown_with_its_terms_before_it_is_fetched() -> None:
    described = show("gemma-3-270m")
    assert "Gemma Terms of Use" in described["licence_notice"] and described["licence_url"].startswith("https://")
    assert described["path"] is None and described["prepared_bytes"] == 0
    with pytest.raises(ModelError, match="pocketft models pull gemma-3-270m"):
        path("gemma-3-270m")


def test_a_prepared_file_is_listed_shown_found_and_removed(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    prepared_store(file, "gguf")
    prepared_store(file, "int8")
    listed = list_models()[-1]
    assert (listed.name, listed.cached, listed.licence) == (str(file), True, "apache-2.0")
    described = show(str(file))
    assert described["prepared_as"] == "gguf, int8" and described["path"] == str(file)
    assert path("tiny") == file
    size = described["prepared_bytes"]
    assert size == listed.size_bytes > 0
    assert remove("tiny") == size
    assert file.is_file()  # the person's own file stays
    assert len(list_models()) == 2
    with pytest.raises(ModelError, match="nothing of"):
        remove(str(file))


def test_a_fetched_file_is_removed_with_its_folder() -> None:
    file = cache_home() / "models" / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(100))
    assert list_models()[0].cached and path("smollm2-135m") == file
    assert remove("smollm2-135m") == 100
    assert not file.parent.exists()


def test_listing_needs_no_torch() -> None:
    code = "import sys, pocketft.models as m; m.list_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
