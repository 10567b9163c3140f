"""Every option of a method reaches the first request of its call, alone and with all others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from layerserve.calls import async_channel, channel
from layerserve.calls import methods as m
from layerserve.training.options.arguments import EVALUATE, TRAIN

X = np.ones((4, 3), np.float32)
ROWS = [[1.0, 2.0, 3.0]]
WHERE = {"version": 1}, {"label": "stable"}
#: What every call of a method has, as it can't be left out, or is drawn at random.
ALWAYS = {"x": X, "y": X, "idempotency_key": "k"}
WEIGHTED = {"sample_weight": np.ones(4)}
#: Options that change no request.
NEVER_SENT = {"timeout", "progress", "key"}
#: Options of many methods, which are in one table: `test_options` compares it with the contract.
IN_ONE_TABLE = {option.name for option in (*TRAIN, *EVALUATE)} - {"label"}

#: By method: the RPC whose request it fills, its arguments, and sets of options that go together.
Table = Mapping[str, tuple[m.Method[Any, Any], tuple[Any, ...], list[dict[str, Any]]]]


def cases(table: Table) -> list[Any]:
    """The parameters of a test with `check_options`."""
    return [
        pytest.param(name, method, arguments, options, id=f"{name} {' '.join(options)}")
        for name, (method, arguments, sets) in table.items()
        for options in sets
    ]


class Recorded(Exception):
    """Ends a call whose request is known."""


def recorded_requests(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Returns a function that calls a method, and returns the first request of an RPC as values by their paths."""
    found: list[Any] = []
    wanted: list[m.Method[Any, Any]] = []

    def note(method, request):
        if wanted and method is wanted[-1]:
            if isinstance(request, bytes):
                request = method.request.FromString(request)
            found.append(next(iter(request)) if method.streams_requests else request)
            raise Recorded

    def noted(send):
        def recorded(self, method, request, *rest, **options):
            note(method, request)
            return send(self, method, request, *rest, **options)

        return recorded

    for kind in (channel.Channel, async_channel.AsyncChannel):
        for name in ("call", "open"):
            monkeypatch.setattr(kind, name, noted(getattr(kind, name)))

    def ended(made, method):
        """Makes what a method has only prepared."""
        return list(made) if method is m.PREDICT_STREAM else made(ROWS)

    def filled(function, method, arguments, options):
        wanted.append(method)
        with pytest.raises(Recorded):
            ended(function(*arguments, **options), method)
        return dict(_leaves(MessageToDict(found.pop(), preserving_proto_field_name=True)))

    return filled


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def check_options(
    request_of: Callable[..., dict[str, Any]],
    function: Callable[..., Any],
    method: m.Method[Any, Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Asserts that each of these options reaches the request, alone and with all others."""
    required = {key: value for key, value in options.items() if key in ALWAYS}
    plain = request_of(function, method, arguments, required)
    together = request_of(function, method, arguments, options)
    expected = dict(plain)
    for option, value in options.items():
        if option in required:
            continue
        alone = request_of(function, method, arguments, {**required, option: value})
        changed = {path: value for path, value in alone.items() if plain.get(path) != value}
        assert changed, f"{option} changes nothing"
        if any(isinstance(one, list) for one in changed.values()):
            changed = {path: one for path, one in changed.items() if not isinstance(one, list)}
            assert all(_within(one, together[path]) for path, one in alone.items() if isinstance(one, list))
        expected.update(changed)
    assert {path: one for path, one in together.items() if not isinstance(one, list)} == {
        path: one for path, one in expected.items() if not isinstance(one, list)
    }


def _within(part: list[Any], whole: list[Any]) -> bool:
    return all(one in whole for one in part)


def without_entry(kind: type, table: Table) -> dict[str, set[str]]:
    """Options of methods of a class that no set of the table has."""
    left = {}
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        options = {
            key
            for key, one in inspect.signature(function).parameters.items()
            if one.default is not one.empty and key not in NEVER_SENT and not name.startswith("_")
        }
        known = {key for one in table.get(name, (None, (), []))[2] for key in one}
        left[name] = options - known - IN_ONE_TABLE - ALWAYS.keys()
    return {name: options for name, options in left.items() if options}
