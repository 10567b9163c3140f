"""`layerserve status`: who serves, since when, and what isn't as usual."""

from __future__ import annotations

import json
import re

import pytest


def test_the_server_is_described(cli, server):
    status, out, _ = cli("status")
    first, second, third = out.splitlines()[:3]
    assert status == 0
    start = r"layerserve 0\.0\.0 is serving; started 2023-11-1\d \d\d:\d\d:20, \d+ h \d+ min ago"
    assert re.fullmatch(f"{re.escape(server.address)}: {start}", first)
    assert second == "gRPC by grpcio, without TLS; host fake, process 1"
    names = {model.name for model in server.models}
    ready = {model.name for model in server.models if model.state in ("ready", "available")}
    assert third == f"{len(names)} models, {len(ready)} of them ready"
    server.serving = False
    assert "is draining, and stops soon; started" in cli("status")[1]


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"pinned": True}, "pinned: newer versions don't take over"),
        ({"state": "loading"}, "loading"),
        ({"state": "failed", "reason": "no layer"}, "failed: no layer"),
        ({"state": "unloading"}, "draining: it finishes its requests"),
        ({"state": "unloaded", "reason": "by a call"}, "unloaded: by a call"),
        ({"state": "ready", "reason": "its settings are invalid"}, "its settings are invalid"),
        ({"state": "ready"}, None),
        ({"state": "available"}, None),
    ],
)
def test_what_is_not_as_usual_with_a_version_is_said(cli, server, fields, note):
    model = server.add_model("new", lambda a: {}, [], [])
    for name, value in fields.items():
        setattr(model, name, value)
    found = [one for one in json.loads(cli("status --json")[1])["notes"] if one["model"] == "new"]
    assert found == ([{"model": "new", "version": 1, "state": model.state, "notes": [note]}] if note else [])
    rows = [line for line in cli("status")[1].splitlines() if re.search(r"│ new +│ +1 │", line)]
    assert [note in row for row in rows] == ([True] if note else [])


def test_a_canary_is_shown_with_its_share(cli, server):
    server.add_model("new", lambda a: {}, [], [], version=1, labels=["canary"])
    server.add_model("new", lambda a: {}, [], [], version=2)
    server.canaries["new"] = 0.05
    (found,) = (one for one in json.loads(cli("status --json")[1])["notes"] if one["model"] == "new")
    assert (found["version"], found["notes"]) == (1, ["canary: 5% of callers get it"])


def test_misplaced_files_are_listed_with_what_was_expected(cli, server):
    assert "Not served" not in cli("status")[1]
    server.misplaced = {"a/model.keras": "expected a/VERSION/model.keras"}
    assert re.search(
        r"Not served *\n.*\n. Path.*\n.*\n│ a/model.keras │ expected a/VERSION/model.keras │", cli("status")[1]
    )
    found = json.loads(cli("status --json")[1])
    assert found["address"] == server.address
    assert found["server"]["misplaced"] == server.misplaced
    assert (found["server"]["version"], found["server"]["tls"]) == ("0.0.0", False)
    assert sum(found["versions"].values()) == len(server.models)
