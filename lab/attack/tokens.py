"""Floods of wrong tokens: what it costs to refuse them must not reach a caller with a right one."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
from attacks.check import Check, Scene
from attacks.honest import OWN
from attacks.messages import LIST_MODELS, PREDICT, PREDICT_STREAM, predict

#: The honest caller's token, and the key with which JSON Web Tokens would have to be signed.
FILE = Path(__file__).with_name("tokens.toml")
#: Calls that are open at once.
OPEN = 50


def _opaque() -> str:
    return secrets.token_urlsafe(32)


def _json_web_token(key: str) -> str:
    parts = [
        {"alg": "RS256", "kid": key},
        {"iss": "https://login.example/", "aud": "layerserve", "sub": secrets.token_hex(8), "exp": 4_000_000_000},
    ]
    text = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts]
    return b".".join(part.rstrip(b"=") for part in (*text, base64.urlsafe_b64encode(secrets.token_bytes(256)))).decode()


#: How tokens of a kind are made; none is made twice.
KINDS: dict[str, Callable[[], str]] = {
    "tokens": _opaque,
    "long tokens": lambda: _opaque() + "x" * 6000,
    "JSON Web Tokens with a wrong signature": lambda: _json_web_token("one"),
    "JSON Web Tokens of unknown keys": lambda: _json_web_token(secrets.token_hex(4)),
}


def wrong_tokens(address: tuple[str, int], kind: str, path: str, seconds: float) -> Counter[str]:
    """Calls with tokens that are wrong, each with another one."""
    seen: Counter[str] = Counter()
    make = KINDS[kind]
    until = time.monotonic() + seconds
    with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
        call, request = channel.stream_stream(path), predict()
        while time.monotonic() < until:
            calls = [
                call(iter([request]), metadata=[("authorization", f"Bearer {make()}")], timeout=20) for _ in range(OPEN)
            ]
            for one in calls:
                seen[one.code().name] += 1
    return seen


def _flooded(kind: str) -> Callable[[Scene], Counter[str]]:
    def run(scene: Scene) -> Counter[str]:
        seen: Counter[str] = Counter()
        for path in (PREDICT, LIST_MODELS, PREDICT_STREAM):
            seen += scene.attack(wrong_tokens, kind, path, scene.seconds / 3, times=2)
        # Streams may also meet the limit of their number.
        scene.only(seen, "UNAUTHENTICATED", "RESOURCE_EXHAUSTED")
        return seen

    return run


CHECKS = [Check(f"flood of wrong {kind}", 5, _flooded(kind), settings={"tokens": FILE}, memory=60.0) for kind in KINDS]
