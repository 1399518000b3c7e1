"""Secrets and personal identifiers in a text: where they are and what kind they are, never what they say.

Knows texts only. What is done about a finding, and how it is told, is decided where documents are cleaned.
"""

from __future__ import annotations

from pocketft.data.secrets.finding import KINDS, Finding
from pocketft.data.secrets.keys import open_armour
from pocketft.data.secrets.scan import redacted, scan

__all__ = ["KINDS", "Finding", "open_armour", "redacted", "scan"]
