"""The benchmark suite behind `scripts/bench`: what pocketft does in time and memory, beside its peers.

`__main__.py` chooses a section; each section measures processes (`process.py`) and hands tables to `report.py`.
"""
