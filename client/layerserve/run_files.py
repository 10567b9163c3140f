"""Files that the callbacks of a run have written: which there are, and their download."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from layerserve.download import fetch
from layerserve.flow import Flow, call
from layerserve.methods import DOWNLOAD_RUN_FILE, LIST_RUN_FILES
from layerserve.model_info import read_time
from layerserve.v1.training_pb2 import DownloadRunFileRequest, ListRunFilesRequest


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file that a callback has written: its name with '/' between its parts, and its size in bytes."""

    name: str
    bytes: int
    modified_time: datetime


def list_files(run_id: str) -> Flow[tuple[RunFile, ...]]:
    """The flow that asks which files there are."""
    reply = yield from call(LIST_RUN_FILES, ListRunFilesRequest(run_id=run_id))
    return tuple(RunFile(file.name, file.bytes, read_time(file.modified_time)) for file in reply.files)


def download_file(run_id: str, name: str, path: str | os.PathLike[str]) -> Flow[Path]:
    """The flow of a download into a file, or into a directory under the file's own name."""
    request = DownloadRunFileRequest(run_id=run_id, name=name)
    where = os.fspath(path)
    return (yield from fetch(DOWNLOAD_RUN_FILE, request, f"file {name!r}", lambda _: _destination(where, name)))


def _destination(path: str, name: str) -> Path:
    if not (path.endswith(("/", os.sep)) or Path(path).is_dir()):
        return Path(path)
    # The name may come from the server's list: none of its parts leads out of the directory.
    parts = [re.sub(r"[^\w.-]", "_", part).lstrip(".") or "_" for part in name.split("/")]
    return Path(path, *parts)
