"""Adapters once they are trained: reading and writing PEFT folders, looking at them, merging them, and taking them
elsewhere.

`aggregate` and `robust` are pure mathematics on tensors; `merge.merge_states` puts them together without files. Knows
no training.
"""
