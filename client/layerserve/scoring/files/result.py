"""The files of a result: a folder of parts, or one file of which the parts are joined at the end."""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from layerserve.errors import FailedPrecondition, InvalidArgument
from layerserve.scoring.files import fragments as divide
from layerserve.scoring.files import writers
from layerserve.scoring.files.fragments import Fragment, Source
from layerserve.scoring.files.locations import TEMPORARY, Location
from layerserve.scoring.files.manifest import Manifest, Part
from layerserve.scoring.files.worker import Done

MANIFEST = "_manifest.json"
REJECTED = "_rejected"
#: How long workers of a job that was killed may take to end, in seconds.
_ENDING = 10.0


class Result:
    """Where the files of a result are. `to` is a file by its suffix, or else a folder."""

    def __init__(self, to: Location, source: Source) -> None:
        """Raises InvalidArgument for a place within the input, and for a suffix of another kind."""
        _check_apart(source.location, to)
        self.to = to
        self.is_file = to.suffix in sum(divide.KINDS.values(), ())
        #: The folder of the parts, and their kind.
        self.folder = to.parent.child(f"{to.name}.parts") if self.is_file else to
        self.kind = self._kind(source)
        self._ending = divide.KINDS[self.kind][0]
        #: The folder of the rejected rows, and the manifest.
        self.rejected = to.parent.child(f"{to.name}.rejected") if self.is_file else to.child(REJECTED)
        self.manifest = to.parent.child(f"{to.name}.manifest.json") if self.is_file else to.child(MANIFEST)

    def _kind(self, source: Source) -> str:
        kind = next((kind for kind, ends in divide.KINDS.items() if self.to.suffix in ends), "")
        if kind == "images":
            raise InvalidArgument(f"OUT: got {self.to.name!r}, expected a folder, or a .parquet, .csv or .npz file")
        if self.is_file:
            return kind
        return "parquet" if source.kind == "images" else source.kind

    def check_columns(self, schema: object) -> None:
        """Raises InvalidArgument for columns that the kind of file can't hold."""
        writers.writer(self.kind, io.BytesIO(), schema).close()

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raises an error if something else is there, or a result without leave to go on with it or to replace it."""
        if resume and overwrite:
            raise InvalidArgument("got --resume and --overwrite, expected one of the two")
        names = self.folder.below() if self.folder.exists() else []
        taken = self.is_file and self.to.exists()
        if taken and self.to.is_folder():
            raise FailedPrecondition(f"OUT: {self.to.url!r} is a folder, expected a file")
        if not names and not taken:
            return
        if not resume and not overwrite:
            raise FailedPrecondition(
                f"OUT: {self.to.url!r} isn't empty; pass --resume to go on with a job that was interrupted, or "
                "--overwrite"
            )
        if not self.manifest.exists():
            foreign = [name for name in names if not _is_ours(name)]
            if foreign or (resume and taken):
                raise FailedPrecondition(
                    f"OUT: {self.to.url!r} has {', '.join(map(repr, foreign[:3])) or 'no manifest'}, so it isn't a "
                    "result of `score`; choose another folder"
                )

    @property
    def is_joined(self) -> bool:
        """Whether the parts were joined to a file, and are gone."""
        return self.is_file and self.to.exists() and not self.folder.exists()

    def clear(self) -> None:
        """Removes a result, the manifest first: without it nothing is done."""
        if self.manifest.exists():
            self.manifest.remove()
        for name in self.folder.below() if self.folder.exists() else ():
            if _is_ours(name):
                self.folder.child(name).remove()
        if self.is_file and self.rejected.exists():
            self.rejected.remove()

    def remove_temporary(self) -> None:
        """Removes files that aren't complete, also those of workers that died."""
        if self.folder.exists():
            for name in self.folder.below():
                if name.startswith(TEMPORARY):
                    self.folder.child(name).remove()

    def forget_lost(self, manifest: Manifest) -> None:
        """Forgets the parts whose files are gone, or of another size than they were."""
        for index, part in list(manifest.parts.items()):
            if self._part(index).size() != part.bytes:
                del manifest.parts[index]

    def keep(self, done: Done, manifest: Manifest) -> None:
        """Gives the files of a part their names, and adds the part to the manifest."""
        if done.rejected_file is not None:
            done.rejected_file.move(self.rejected.child(_name(done.index, ".parquet")))
        done.file.move(self._part(done.index))
        manifest.add(done.index, Part(done.rows, done.rejected, done.bytes))

    def finish(self, pieces: Sequence[Fragment], manifest: Manifest) -> None:
        """Joins the parts, if the result is one file, and notes that it is complete."""
        if not self.is_file:
            manifest.write(complete=True)
            return
        # Among the parts, so that it is removed with what else isn't complete if the job is killed.
        temporary = self.folder.child(self.to.name).temporary()
        try:
            with temporary.writing() as opened:
                writers.join(self.kind, [self._part(one.index) for one in pieces], opened)
            joined_bytes = temporary.size()
            temporary.move(self.to)
        finally:
            self.remove_temporary()
        manifest.write(complete=True, joined_bytes=joined_bytes)
        self.folder.remove()

    def check_joined(self, manifest: Manifest) -> None:
        """Raises FailedPrecondition if the file was changed after its parts were joined."""
        size = self.to.size()
        if size != manifest.joined_bytes:
            raise FailedPrecondition(
                f"OUT: {self.to.url!r} has {size} bytes, but had {manifest.joined_bytes} when the job ended; pass "
                "--overwrite to compute it again"
            )

    def _part(self, index: int) -> Location:
        return self.folder.child(_name(index, self._ending))

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Keeps other jobs from a folder of this machine. Raises FailedPrecondition if there is one.

        Workers have the lock, too: those of a job that was killed end within moments.
        """
        if not self.folder.is_local:
            yield None
            return
        os.makedirs(self.folder.url, exist_ok=True)
        lock = os.open(self.folder.url, os.O_RDONLY)
        try:
            end = time.monotonic() + _ENDING
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise FailedPrecondition(f"OUT: another job writes to {self.folder.url!r}") from None
                    time.sleep(0.05)
            yield lock
        finally:
            os.close(lock)


def _name(index: int, ending: str) -> str:
    return f"part-{index:06}{ending}"


def _check_apart(source: Location, to: Location) -> None:
    one, other = source.url.rstrip("/") + "/", to.url.rstrip("/") + "/"
    if one.startswith(other) or other.startswith(one):
        raise InvalidArgument(f"OUT: got {to.url!r}, expected a place outside of IN, {source.url!r}")


def _is_ours(name: str) -> bool:
    return name.startswith(("part-", TEMPORARY, f"{REJECTED}/")) or name == MANIFEST
