"""Floods of calls and pages that describe everything, on a server with hundreds of models."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import grpc
from attacks.check import Check, Scene
from attacks.honest import OWN
from attacks.messages import LIST_MODELS, MODEL
from attacks.server import Server
from layerserve.calls import methods
from layerserve.v1.models_pb2 import VERSION_STATE_READY, ListModelsResponse

from attack.neighbours import ask_again, call_again

#: Number of models that are added for the time of the check.
MODELS = 300
#: Time in which they are loaded on a busy machine, in seconds.
LOAD_SECONDS = 120.0
LISTS = (
    LIST_MODELS,
    methods.METHODS["GetModelStatistics"].path,
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/ModelStatistics",
)


def _lists(scene: Scene) -> Counter[str]:
    """A list of so many models takes tens of milliseconds, for which other calls must not wait."""
    seen: Counter[str] = Counter()
    repository = scene.server.repository
    copies = [repository / f"copy{number}" for number in range(MODELS)]
    try:
        for copy in copies:
            shutil.copytree(repository / MODEL, unfinished := copy.with_name(f".{copy.name}"))
            unfinished.rename(copy)
        scene.expect(_all_ready(scene.server, copies), f"{MODELS} models aren't loaded after {LOAD_SECONDS:g} s")
        for path in LISTS:
            answers = scene.attack(call_again, path, b"", scene.seconds, times=2)
            scene.expect(answers["OK"], f"{path}: {dict(answers)}")
            scene.only(answers, "OK", "RESOURCE_EXHAUSTED")
            seen += answers
        pages = scene.attack(ask_again, scene.server.http_port, "/metrics", scene.seconds, times=2)
        scene.only(pages, "HTTP 200")
        return seen + pages
    finally:
        for copy in copies:
            shutil.rmtree(copy, ignore_errors=True)


def _all_ready(server: Server, copies: list[Path]) -> bool:
    wanted = {copy.name for copy in copies}
    until = time.monotonic() + LOAD_SECONDS
    with grpc.insecure_channel(server.target, options=OWN) as channel:
        call = channel.unary_unary(LIST_MODELS)
        while time.monotonic() < until:
            listed = ListModelsResponse.FromString(call(b"", timeout=60)).versions
            if wanted <= {one.name for one in listed if one.state == VERSION_STATE_READY}:
                return True
            time.sleep(0.5)
    return False


CHECKS = [
    Check(
        f"floods of lists of {MODELS} models",
        5,
        _lists,
        memory=400,
        # With several processes the calls are forwarded as streams, which are limited by address.
        refusals=("RESOURCE_EXHAUSTED busy",),
    )
]
