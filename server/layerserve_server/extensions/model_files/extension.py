"""What the extension adds: nothing to a server. The command line finds its `commands` as entry points."""

from __future__ import annotations

from layerserve_server.extensions.extension import Extension

MODEL_FILES = Extension(name="model_files")
