"""Room for datasets: what the server and each caller may keep, and what the disk has free."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from layerserve_server.datasets.dataset import ID, Declaration
from layerserve_server.datasets.partial_upload import PART_NAME, Part, read_note, unwritable
from layerserve_server.errors import QuotaError, TooLargeError

if TYPE_CHECKING:
    from layerserve_server.datasets.store import DatasetStore

#: Maximum number of datasets and uploads: each is a folder that is read to list them.
MAX_DATASETS = 10_000
#: Maximum number of those of a caller, so that others can have some, too.
MAX_OWN = MAX_DATASETS // 2
#: Time after which a caller may try again when its datasets fill its quota, in seconds.
RETRY_SECONDS = 60.0


def check(kept: DatasetStore, declared: Declaration, owner: str, folder: Path, most: int | None) -> None:
    """Raises an error if there is no room for a declared file, of which `folder` may have a part already.

    TooLargeError if the server or the disk has none, and QuotaError if its owner has more than `most` bytes then.
    """
    total, own, count, own_count = _used(kept, owner, {folder.name, declared.sha256})
    _check_fits(kept, declared.bytes, total)
    if count >= MAX_DATASETS:
        raise TooLargeError(f"there are {count} datasets and uploads, the maximum; delete some first")
    if own_count >= MAX_OWN:
        raise TooLargeError(f"there are {own_count} datasets and uploads of the caller, the maximum; delete some first")
    if most is not None and own + declared.bytes > most:
        raise QuotaError(
            f"caller '{owner}': its datasets have {own} bytes, {own + declared.bytes} with this one; expected at most "
            f"{most}",
            retry_after=RETRY_SECONDS,
        )
    free, has = _free(kept.folder), _size(folder)
    if declared.bytes - has > free:
        raise TooLargeError(f"the dataset has {declared.bytes - has} bytes to come, but the disk has {free} free")


def check_received(kept: DatasetStore, part: Part) -> None:
    """Raises TooLargeError if what has come of an upload doesn't fit any more: others came meanwhile."""
    _check_fits(kept, part.size, _used(kept, part.owner, {part.folder.name, part.declared.sha256})[0])


def _check_fits(kept: DatasetStore, size: int, total: int) -> None:
    if total + size > kept.max_bytes:
        raise TooLargeError(
            f"the dataset has {size} bytes, expected at most {max(0, kept.max_bytes - total)}: the server's setting "
            f"max_dataset_bytes is {kept.max_bytes}, of which {total} are used"
        )


def left(kept: DatasetStore, owner: str, most: int | None) -> int:
    """Returns the number of bytes for which there is room."""
    total, own, *_ = _used(kept, owner, set())
    return max(0, min(kept.max_bytes - total, (sys.maxsize if most is None else most) - own, _free(kept.folder)))


def _used(kept: DatasetStore, owner: str, except_for: Container[str]) -> tuple[int, int, int, int]:
    """Returns the bytes of all datasets and uploads, of those of one owner, and the numbers of both.

    Uploads and damaged datasets with the names `except_for` don't count.
    """
    datasets = kept.datasets()
    own_sizes = [dataset.bytes for dataset in datasets if owner in dataset.owner_names]
    total, own = sum(dataset.bytes for dataset in datasets), sum(own_sizes)
    count, own_count = len(datasets), len(own_sizes)
    known = {dataset.id for dataset in datasets}
    for entry in os.scandir(kept.folder):
        is_part = PART_NAME.fullmatch(entry.name)
        if entry.name in known or entry.name in except_for or not (is_part or ID.fullmatch(entry.name)):
            continue
        count += 1
        # What is declared keeps no room from others before it has come.
        size = _size(Path(entry.path))
        total += size
        if is_part and read_note(Path(entry.path)).owner == owner:
            own_count += 1
            part = kept.open_parts.get(entry.name)
            own += size if part is None else part.declared.bytes
    return total, own, count, own_count


def _size(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise unwritable(error) from error
