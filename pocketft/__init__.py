"""pocketft: fine-tune a small language model on your own text, inside the memory you can spare."""

__version__ = "0.1.0"
