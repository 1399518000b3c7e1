"""For all tests: Hypothesis draws the same examples every time, so a failure is a change and not the day's luck."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
