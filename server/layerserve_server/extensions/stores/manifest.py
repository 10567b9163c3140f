"""The manifest of a version in a store, which is written last and holds name, size and digest of the model file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from layerserve_server.errors import safe_text
from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.repository.layout import MANIFEST


def check_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Compares fetched files with their manifest, if there is one. Raises StoreError."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return
    except (ValueError, RecursionError):
        raise StoreError("damaged", f"{MANIFEST} isn't JSON") from None
    name = manifest.get("file") if isinstance(manifest, dict) else None
    if not isinstance(name, str) or "sha256" not in manifest:
        return
    if name not in digests:
        raise StoreError("damaged", f"the version has no {safe_text(name, 200)!r}, which its manifest names")
    size = (folder / name).stat().st_size
    if (expected := manifest.get("bytes", size)) != size:
        expected = safe_text(str(expected), 40)
        raise StoreError("damaged", f"{name}: got {size} bytes, expected {expected} as in its manifest")
    if digests[name] != manifest["sha256"]:
        raise StoreError("damaged", f"{name}: its sha256 differs from its manifest's")
