"""A file of the state folder that can't be read when a server first starts opens nothing, and is left as it is.

Every file that a server has left is damaged, one at a time; COUNT tries more kinds of damage for each.
"""

from __future__ import annotations

import os
import shutil

import pytest
from remembered_access import World

DAMAGES = ("cut", "empty", "zeros", "newer", "a folder", "gone")
#: Files that hold nothing but a lock, or that are written anew at each start.
WITHOUT_CONTENT = {".lock", "owner.lock", "child.lock", "usage.lock", "audit.jsonl"}


def damage(path, kind):
    content = path.read_bytes()
    if kind in ("a folder", "gone"):
        path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "empty": b"",
                "zeros": bytes(len(content)),
                "newer": b'{"format": 99, "added": {"by": "a newer server"}}\n',
            }[kind]
        )


def content(path):
    return path.read_bytes() if path.is_file() else path.is_dir()


@pytest.mark.parametrize("number", range(int(os.environ.get("COUNT", "1"))))
def test_a_file_that_can_not_be_read_opens_nothing(put, start, connect, tmp_path, number):
    world = World(put, start, connect, tmp_path, 0, named=True)
    (before, *_), saved = [world.allowed()], tmp_path / "saved"
    for app, _ in world.servers:
        app.stop()
    shutil.copytree(world.state, saved)
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file() and path.stat().st_size)
    tried = [path for path in files if path.name not in WITHOUT_CONTENT]
    assert {path.parts[0] for path in tried} >= {"callers", "runs", "datasets"}
    wrong = []
    for place, path in enumerate(tried):
        kind = DAMAGES[(place + number) % len(DAMAGES)]
        shutil.rmtree(world.state)
        shutil.copytree(saved, world.state)
        damage(world.state / path, kind)
        left = content(world.state / path)
        world.servers = []
        world.open()
        opened = world.allowed() - before
        for app, _ in world.servers:
            app.stop()
        wrong += [(str(path), kind, "opens", sorted(map(str, opened))[:5])] if opened else []
        # What settings say of callers is written down at each start.
        kept = kind == "gone" or path.parts[0] == "callers" or content(world.state / path) == left
        wrong += [] if kept else [(str(path), kind, "is overwritten")]
    assert wrong == []
