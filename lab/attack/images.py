"""Damaged images and bombs, for a model whose input takes images, beside images of another caller."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc
import numpy as np
from attacks.check import Check, Scene
from attacks.honest import OWN, PREDICT, TOKEN
from attacks.repository import IMAGES
from hostile_images import hostile_images
from layerserve.errors import REASON_KEY
from layerserve.v1.prediction_pb2 import PredictRequest
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import encode
from PIL import Image

#: Number of files, and of processes that send them.
COUNT, SENDERS = 1000, 2
#: Time for an answer, in seconds: an image may take its whole time, behind others of its caller.
SECONDS = 120.0


def _request(*images: bytes) -> bytes:
    elements = np.empty(len(images), object)
    elements[:] = images
    return PredictRequest(model=ModelSpec(name=IMAGES), inputs=[encode(elements)]).SerializeToString()


def _send(address: tuple[str, int], seed: int) -> Counter[str]:
    """Sends each file in a request of its own, with a good image, and counts the answers by kind of file."""
    seen: Counter[str] = Counter()
    good = _photo()
    with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
        predict = channel.unary_unary(PREDICT)
        for kind, content in hostile_images(COUNT // SENDERS, seed):
            try:
                predict(_request(good, content), timeout=SECONDS, metadata=TOKEN)
                seen[f"decoded: {kind}"] += 1
            except grpc.RpcError as error:
                reason = dict(error.trailing_metadata() or ()).get(REASON_KEY, "")
                seen[f"{error.code().name} {reason}: {kind}"] += 1
    return seen


def _photo() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((800, 600)).save(data, "JPEG", quality=90)
    return data.getvalue()


def _times(target: str, over: Callable[[], bool]) -> list[float]:
    """Times of an honest caller's images, one after the other, in seconds."""
    request, times = _request(_photo()), []
    with grpc.insecure_channel(target, options=OWN) as channel:
        predict = channel.unary_unary(PREDICT)
        while not over():
            began = time.monotonic()
            predict(request, timeout=SECONDS, metadata=TOKEN)
            times.append(time.monotonic() - began)
            time.sleep(0.02)
    return times


def _hostile(scene: Scene) -> Counter[str]:
    """Each file is decoded, or refused as an invalid tensor; another caller's images are answered meanwhile."""
    end = time.monotonic() + 3
    quiet = _times(scene.server.target, lambda: time.monotonic() > end)
    ended, times = threading.Event(), []
    beside = threading.Thread(target=lambda: times.extend(_times(scene.server.target, ended.is_set)))
    beside.start()
    futures = [scene.pool.submit(_send, scene.server.address, seed) for seed in range(SENDERS)]
    seen = sum((future.result() for future in futures), Counter[str]())
    ended.set()
    beside.join()
    scene.only(seen, "decoded", "INVALID_ARGUMENT invalid_tensor")
    scene.notes.append(f"images of another caller: p99 {_p99(quiet):.2f} s before, {_p99(times):.2f} s of {len(times)}")
    return seen


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


CHECKS = [
    Check(
        f"{COUNT} damaged images and bombs",
        10,
        _hostile,
        settings={"image_workers": 2, "image_seconds": 3},
        memory=2500,
    )
]
