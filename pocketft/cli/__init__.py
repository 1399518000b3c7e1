"""The command line: one small file per verb that parses, calls a room below and renders what it gives back.

Nothing here computes. Heavy imports (torch, transformers, the rooms that need them) stand inside the functions that use
them, so that `pocketft --help` answers at once.
"""
