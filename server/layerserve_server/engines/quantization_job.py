"""The job that quantizes a graph.

It writes in the folder of the graph (see `layergraph.execution.engines.onnx.quantization`), and replies {} or {"error":
why the graph can't be quantized}.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerserve_server.jobs.channel import Channel


def quantize(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job."""
    folder = Path(arguments["folder"])
    # Intermediate files, which would stay if this process were killed.
    tempfile.tempdir = str(folder)
    # Imported here, since it takes a second, and its packages may not be installed.
    from layergraph.execution.engines.onnx.quantization import quantize

    try:
        quantize(folder)
    except Exception as reason:
        # The quantization may raise anything for graphs that it doesn't expect.
        return {"error": (str(reason) or type(reason).__name__)[:500]}
    return {}
