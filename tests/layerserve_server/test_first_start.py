"""A file of the state folder that can't be read opens nothing, when a server starts or while one runs.

Every file that a server has left is damaged, one at a time; COUNT tries more kinds of damage for each. At a start it is
left as it is.
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


def damages(saved, number):
    """Every file of a saved state folder with content, each with a kind of damage."""
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file() and path.stat().st_size)
    tried = [path for path in files if path.name not in WITHOUT_CONTENT]
    assert {path.parts[0] for path in tried} >= {"callers", "runs", "datasets"}
    return [(path, DAMAGES[(place + number) % len(DAMAGES)]) for place, path in enumerate(tried)]


def stop(world):
    for app, _ in world.servers:
        app.stop()
    world.servers = []


@pytest.fixture
def world(put, start, connect, tmp_path):
    """A world that has stopped, with a copy of its state folder as it was left."""
    made = World(put, start, connect, tmp_path, 0, named=True)
    made.before = made.allowed()
    stop(made)
    made.saved = tmp_path / "saved"
    shutil.copytree(made.state, made.saved)
    return made


def restore(world):
    shutil.rmtree(world.state)
    shutil.copytree(world.saved, world.state)


@pytest.mark.parametrize("number", range(int(os.environ.get("COUNT", "1"))))
def test_a_file_that_can_not_be_read_opens_nothing(world, number):
    wrong = []
    for path, kind in damages(world.saved, number):
        restore(world)
        damage(world.state / path, kind)
        left = content(world.state / path)
        world.open()
        opened = world.allowed() - world.before
        stop(world)
        wrong += [(str(path), kind, "opens", sorted(map(str, opened))[:5])] if opened else []
        if path.name == "events.jsonl" and isinstance(left, bytes):
            # A run whose end is lost was interrupted, and that is written behind the whole lines.
            kept = content(world.state / path).startswith(left[: left.rfind(b"\n") + 1])
        else:
            # What settings say of callers is written down at each start.
            kept = kind == "gone" or path.parts[0] == "callers" or content(world.state / path) == left
        wrong += [] if kept else [(str(path), kind, "is overwritten")]
    assert (wrong, world.defects) == ([], [])


@pytest.mark.parametrize("number", range(int(os.environ.get("COUNT", "1"))))
def test_a_file_that_is_damaged_while_a_server_runs_opens_nothing(world, number):
    wrong = []
    for path, kind in damages(world.saved, number + 1):
        restore(world)
        world.open()
        damage(world.state / path, kind)
        world.scan()
        opened = world.allowed() - world.before
        stop(world)
        wrong += [(str(path), kind, "opens", sorted(map(str, opened))[:5])] if opened else []
    assert (wrong, world.defects) == ([], [])
