"""Damaged model files, which appear in the repository while others are served."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from pathlib import Path

import grpc
from attacks.check import Check, Scene
from attacks.honest import LIST_MODELS
from attacks.server import Server
from damaged_files import damaged_files
from layerserve.v1.models_pb2 import ListModelsRequest, ListModelsResponse, VersionState

#: Number of files, and of those that appear at once.
COUNT, AT_ONCE = 1000, 50
#: Time for which a file may be read on a busy machine, in seconds.
FILE_SECONDS = 30.0


def _damaged(scene: Scene) -> Counter[str]:
    """All files are read, and refused with a reason; HDF5 is in no process that serves."""
    seen: Counter[str] = Counter()
    repository = scene.server.repository
    contents = enumerate(damaged_files(COUNT))
    while batch := list(islice(contents, AT_ONCE)):
        paths = []
        for number, (suffix, content) in batch:
            paths.append(repository / f"damaged{number}{suffix}")
            unfinished = repository / f".{number}"
            unfinished.write_bytes(content)
            unfinished.rename(paths[-1])
        states = _states(scene.server, paths)
        for path in paths:
            state, reason = states.get(path.stem, ("unread", ""))
            scene.expect(state in ("READY", "FAILED"), f"{path.name} is {state}")
            scene.expect(state == "READY" or reason, f"{path.name} failed without a reason")
            scene.expect("internal error" not in reason, f"{path.name}: {reason}")
            seen[state] += 1
            path.unlink()
        for pid in scene.server.processes():
            scene.expect("hdf5" not in Path(f"/proc/{pid}/maps").read_text(), f"process {pid} has loaded HDF5")
    return seen


def _states(server: Server, paths: list[Path]) -> dict[str, tuple[str, str]]:
    """State and reason of each model, once none is unread."""
    wanted = {path.stem for path in paths}
    until = time.monotonic() + FILE_SECONDS * len(paths)
    with grpc.insecure_channel(server.target) as channel:
        while True:
            reply = ListModelsResponse.FromString(
                channel.unary_unary(LIST_MODELS)(ListModelsRequest().SerializeToString(), timeout=60)
            )
            states = {
                one.name: (VersionState.Name(one.state).removeprefix("VERSION_STATE_"), one.reason)
                for one in reply.versions
            }
            read = {name for name, (state, _) in states.items() if state in ("READY", "FAILED")}
            if wanted <= read or time.monotonic() > until:
                return states
            time.sleep(0.2)


CHECKS = [Check(f"{COUNT} damaged model files", 10, _damaged, memory=300)]
