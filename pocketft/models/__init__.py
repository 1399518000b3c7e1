"""Base models: a catalog, fetching with checksums, and every kind of source turned into one block store.

`pocketft.models.base_model` has `resolve_base`, `load_config` and `load_tokenizer`, which need torch; what is handed on
here does not. Knows nothing of training.
"""

from pocketft.models.location import cache_home
from pocketft.models.shelf import ModelSummary, list_models, path, pull, remove, show

__all__ = ["ModelSummary", "cache_home", "list_models", "path", "pull", "remove", "show"]
