"""What the libraries below are told before any of them is imported.

Only defaults: a variable that the person has set stays as it is.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

_DEFAULTS = {
    # Nothing is sent anywhere: neither usage figures nor the user agent that carries them.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Progress and advice are ours to give; theirs would cut through the live view.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # Tokenizer threads would compete with the matrix products for the cores, and warn at every fork.
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait for each other spin for some microseconds, then sleep: without spinning a step of many small
    # operations takes a fifth longer, and with the usual milliseconds of it a busy program beside takes most of the
    # time.
    "GOMP_SPINCOUNT": "2000",
    # oneDNN keeps up to 1024 compiled kernels, one for each shape of a product, about 0.4 MB each: rows of many lengths
    # made a run grow by 600 MB. A step over rows of one length uses about 50; with room for fewer than two lengths, a
    # step that meets both compiles each anew at every use and takes twice as long.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}

_OFFLINE = "HF_HUB_OFFLINE"
_ours: set[str] = set()


def set_defaults() -> None:
    """Called once, first thing. Offline until a hub model is named; huggingface_hub reads that when it is imported."""
    for name, value in {**_DEFAULTS, _OFFLINE: "1"}.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)
    # On processors with AVX512-BF16 bitsandbytes, when imported, looks for a kernel on the hub and warns that it found
    # none. Being offline it does not look, and that kernel is not one we use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.warnoptions and not os.environ.get("POCKETFT_DEBUG"):  # -W and PYTHONWARNINGS say otherwise
        # What our libraries will rename, or find unusual in how they are used, the person cannot act on.
        libraries = r"(accelerate|bitsandbytes|huggingface_hub|peft|torch|transformers)(\.|$)"
        warnings.filterwarnings("ignore", module=libraries)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)


def allow_hub_for(model_name: str) -> None:
    """Lift our own offline default, and only ours, where the person named a hub repository."""
    if model_name.startswith("hf:") and _OFFLINE in _ours:
        del os.environ[_OFFLINE]
        _ours.discard(_OFFLINE)
