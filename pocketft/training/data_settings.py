"""What a recipe says about reading text, as the data room takes it."""

from __future__ import annotations

from pocketft.data.layout import DataSettings
from pocketft.recipe import Recipe


def data_settings(recipe: Recipe) -> DataSettings:
    data = recipe.data
    return DataSettings(
        max_seq_length=data.max_seq_length,
        val_split=data.val_split,
        packing=data.packing,
        seed=recipe.training.seed,
        me=data.me,
        column=data.column,
        deduplicate=data.deduplicate,
        drop_boilerplate=data.drop_boilerplate,
        min_chars=data.min_chars,
        secrets=data.secrets,
    )
