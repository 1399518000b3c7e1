"""The memory cap: sizes and the meter here, the plan that fits the cap and the guard that holds it beside them.

Nothing is imported at this level, so that reading a size costs no more than that.
"""
