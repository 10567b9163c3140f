"""Listing and download of files written by a run's callbacks."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from layerserve.calls.flow import Flow, call
from layerserve.calls.methods import DOWNLOAD_RUN_FILE, LIST_RUN_FILES
from layerserve.models.download import fetch
from layerserve.models.info import read_time
from layerserve.v1.training_pb2 import DownloadRunFileRequest, ListRunFilesRequest


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file written by a callback: relative path with '/', size in bytes, and modification time."""

    name: str
    bytes: int
    modified_time: datetime


def list_files(run_id: str) -> Flow[tuple[RunFile, ...]]:
    """Flow that lists a run's files."""
    reply = yield from call(LIST_RUN_FILES, ListRunFilesRequest(run_id=run_id))
    return tuple(RunFile(file.name, file.bytes, read_time(file.modified_time)) for file in reply.files)


def download_file(run_id: str, name: str, path: str | os.PathLike[str]) -> Flow[Path]:
    """Flow that downloads a run's file to a file, or to a directory under its own name. Returns its path."""
    request = DownloadRunFileRequest(run_id=run_id, name=name)
    where = os.fspath(path)
    return (yield from fetch(DOWNLOAD_RUN_FILE, request, f"file {name!r}", lambda _: _destination(where, name)))


def _destination(path: str, name: str) -> Path:
    if not (path.endswith(("/", os.sep)) or Path(path).is_dir()):
        return Path(path)
    # Names may come from the server: characters that could lead out of the directory are replaced.
    parts = [re.sub(r"[^\w.-]", "_", part).lstrip(".") or "_" for part in name.split("/")]
    return Path(path, *parts)
