"""GetServer: what serves, since when, and what is in the wrong place, which only some callers are told."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import version

import pytest
from layerserve import Client
from layerserve.errors import PermissionDenied


def test_a_server_describes_itself_from_its_start_to_its_end(put, make_server, starting, hold, monkeypatch):
    put()
    before = datetime.now(timezone.utc)
    app = make_server()
    held = hold(app.runs.start)
    monkeypatch.setattr(app.runs, "start", held)
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        with starting(app, held) as finish:
            assert client.server().state == "starting"
            finish()
            found = client.server()
        assert (found.state, found.version, found.workers) == ("serving", version("layerserve"), 1)
        assert (found.host, found.process_id) == (socket.gethostname(), os.getpid())
        assert (found.transport, found.tls, found.misplaced) == ("grpcio", False, {})
        assert before <= found.start_time <= datetime.now(timezone.utc)
        app.drain()
        assert client.server().state == "draining"


def test_names_of_files_that_are_no_text_are_told_escaped(put, start, tmp_path, caplog):
    put()
    models = tmp_path / "models"
    for path in ("alone/1/\udcff.keras", "two/1/a\udcff.keras", "two/1/b\udcff.keras", "lost/\udcff.keras"):
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        put().rename(models / path)
    put()
    with Client(f"127.0.0.1:{start().grpc_port}") as client:
        assert list(client.server().misplaced) == ["lost/\\udcff.keras"]
        found = {one.name: one for one in client.models()}
        assert found["alone"].file == "\\udcff.keras"
        assert "a\\udcff.keras, b\\udcff.keras" in found["two"].reason
        assert client.model("double").state == "ready"
    assert caplog.text.encode()


def test_misplaced_files_are_told_to_callers_that_may_change_all_models(put, start, tmp_path):
    put()
    (tmp_path / "models" / "lost").mkdir()
    for number in range(30):
        (tmp_path / "models" / "lost" / f"{number:02}.keras").touch()
    tokens = tmp_path / "tokens.toml"
    callers = {
        "admin": 'rights = ["read", "manage"]',
        "some": 'rights = ["read", "manage"]\nmodels = ["double"]',
        "reader": 'rights = ["read"]',
        "user": 'rights = ["predict"]',
    }
    tokens.write_text(
        "\n".join(
            f'[[tokens]]\nname = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n{rest}'
            for name, rest in callers.items()
        )
    )
    app = start(tokens=tokens)

    def misplaced(token):
        with Client(f"127.0.0.1:{app.grpc_port}", token=token) as client:
            found = client.server()
            # Nor are others told where it runs.
            assert bool(found.host) is bool(found.process_id) is (token == "admin")
            return found.misplaced

    found = misplaced("admin")
    assert len(found) == 20
    assert found["lost/00.keras"] == "expected lost/VERSION/00.keras, such as lost/1/00.keras"
    assert misplaced("some") == misplaced("reader") == {}
    with pytest.raises(PermissionDenied):
        misplaced("user")
