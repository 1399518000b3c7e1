"""From what an adapter records of its base to the name under which this machine finds it.

A record may come from another device: it names a catalog model, a hub repository without its prefix, or the last part
of somebody's path. What counts is the file's hash; the name is only where to look for it. Imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from pocketft.models.catalog import catalog
from pocketft.models.location import HUB_PREFIX, prepared


def find_recorded(name: str, artifact_sha256: str | None = None, revision: str | None = None) -> str:
    """A name for `base_model.resolve_base`: of a base prepared here from the very file, of a catalog model with its
    hash, else the recorded name, with the hub's prefix where it can only be a repository.
    """
    if artifact_sha256 is not None:
        for entry in catalog().values():
            if entry.sha256 == artifact_sha256 and name == entry.name:
                return entry.name
        for _, info in prepared():
            if info.get("artifact_sha256") == artifact_sha256:
                known = str(info["name"])
                gone = Path(known).is_absolute() and not Path(known).exists()
                return Path(known).name if gone else known  # what was prepared is still found by its bare name
        for entry in catalog().values():
            if entry.sha256 == artifact_sha256:
                return entry.name
    is_hub_name = name.count("/") == 1 and not name.startswith((".", "~", "/", HUB_PREFIX)) and "\\" not in name
    if name in catalog() or not is_hub_name or Path(name).exists():
        return name
    here = {info["name"] for _, info in prepared()}
    if f"{HUB_PREFIX}{name}" in here or revision is None:
        return f"{HUB_PREFIX}{name}"
    return f"{HUB_PREFIX}{name}@{revision}"
