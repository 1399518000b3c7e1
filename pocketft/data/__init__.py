"""The data room: from files a person has to rows of token ids a model can learn from.

Readers find documents, the tokenizer and the chat template turn them into tokens with a loss mask, and packing lays
them out in rows. Knows nothing of a model's weights. The names are handed on on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketft.data.batching import Row, collate
    from pocketft.data.dataset import (
        DataReport,
        PreparedData,
        RowSet,
        epoch_order,
        longest_first,
        prepare_dataset,
    )
    from pocketft.data.layout import DataSettings

__all__ = [
    "DataReport",
    "DataSettings",
    "PreparedData",
    "Row",
    "RowSet",
    "collate",
    "epoch_order",
    "longest_first",
    "prepare_dataset",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that the reading process does not load what only the training process uses, and the reverse.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pocketft.data import batching, dataset, layout

    return next(getattr(module, name) for module in (batching, dataset, layout) if hasattr(module, name))
