"""Every method of every service with every kind of token, on every transport."""

from __future__ import annotations

import grpc
import pytest
from echo_servers import needs_native
from rights_matrix import check
from tokens import bearer, write_tokens


@pytest.fixture(params=["grpcio", pytest.param("native", marks=needs_native)])
def guarded(request, put, start, connect, tmp_path):
    """A server that has tokens, and a channel to it."""
    put("double")
    tokens = write_tokens(tmp_path / "tokens.toml")
    server = start(tokens=tokens, transport=request.param)
    return server, connect(server)


def test_every_method_with_every_kind_of_token(guarded):
    server, channel = guarded
    assert len(server.methods) >= 40
    for method in server.methods:
        check(channel, method)


def test_methods_that_do_not_exist_are_unimplemented_for_all(guarded):
    _, channel = guarded
    for token in (None, "wrong", "all"):
        call = channel.unary_unary("/layerserve.v1.PredictionService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=bearer(token), timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
