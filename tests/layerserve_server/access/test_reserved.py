"""Models that only some callers may use, by `callers` in their layerserve.toml."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from echo_servers import needs_native
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.access.caller import Caller
from layerserve_server.access.reserved import UNREADABLE, Reserved, Restriction
from layerserve_server.errors import ForbiddenError
from layerserve_server.transport.streams import ServerStream
from tokens import bearer, write_tokens

X = np.ones((1, 2), np.float32)


def request(name):
    spec = tensor_pb2.ModelSpec(name=name)
    return prediction_pb2.PredictRequest(model=spec, inputs=[tensors.encode(X, "x")])


def code_of(call, name, token):
    try:
        call(request(name), metadata=bearer(token), timeout=30)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def reserve(model_file, text):
    path = model_file.parents[1] / "layerserve.toml"
    path.write_text(text)


@pytest.mark.parametrize("transport", ["grpcio", pytest.param("native", marks=needs_native)])
def test_a_models_file_names_its_callers_while_the_server_runs(transport, put, start, connect, tmp_path):
    put("open")
    reserve(put("double"), 'callers = ["pred*"]')
    server = start(transport=transport, tokens=write_tokens(tmp_path / "tokens.toml"))
    channel = connect(server)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    models = models_pb2_grpc.ModelServiceStub(channel).ListModels

    def listed(token):
        versions = models(models_pb2.ListModelsRequest(), metadata=bearer(token), timeout=30).versions
        return {one.name for one in versions}

    for _ in range(3):  # also by its template, and with what was found before
        assert code_of(predict, "double", "predict") is grpc.StatusCode.OK
        assert code_of(predict, "double", "all") is grpc.StatusCode.PERMISSION_DENIED
        assert code_of(predict, "open", "all") is grpc.StatusCode.OK
    assert listed("all") == {"open"}
    reserve(tmp_path / "models" / "double" / "1" / "model.keras", 'callers = ["all"]')
    server.repository.scan()
    assert code_of(predict, "double", "predict") is grpc.StatusCode.PERMISSION_DENIED
    assert code_of(predict, "double", "all") is grpc.StatusCode.OK
    assert listed("all") == {"open", "double"}
    # A file that is lost or empty doesn't open the model; one without callers does.
    (tmp_path / "models" / "double" / "layerserve.toml").unlink()
    server.repository.scan()
    assert code_of(predict, "double", "predict") is grpc.StatusCode.PERMISSION_DENIED
    assert listed("all") == {"open", "double"}
    reserve(tmp_path / "models" / "double" / "1" / "model.keras", "")
    server.repository.scan()
    assert code_of(predict, "double", "predict") is grpc.StatusCode.PERMISSION_DENIED
    assert listed("all") == {"open", "double"}
    reserve(tmp_path / "models" / "double" / "1" / "model.keras", "# for all\n")
    server.repository.scan()
    assert code_of(predict, "double", "predict") is grpc.StatusCode.OK


@pytest.mark.parametrize("guarded", [True, False])
def test_an_unknown_model_is_no_way_to_learn_the_names_of_others(put, start, connect, tmp_path, guarded):
    reserve(put("secret"), 'callers = ["ci"]')
    put("open")
    server = start(**({"tokens": write_tokens(tmp_path / "tokens.toml")} if guarded else {}))
    predict = prediction_pb2_grpc.PredictionServiceStub(connect(server)).Predict
    texts = []
    for name in ("other-secret", "other-open", "other-"):
        with pytest.raises(grpc.RpcError) as refused:
            predict(request(name), metadata=bearer("other-models" if guarded else None), timeout=30)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        texts.append(refused.value.details())
    assert not any("'secret'" in text or ": secret" in text or "open, secret" in text for text in texts), texts
    if guarded:
        assert texts == [f"unknown model '{name}'" for name in ("other-secret", "other-open", "other-")]


def test_without_tokens_nobody_is_among_them(put, start, connect):
    reserve(put("double"), 'callers = ["ci"]')
    put("open")
    server = start()
    predict = prediction_pb2_grpc.PredictionServiceStub(connect(server)).Predict
    assert code_of(predict, "double", None) is grpc.StatusCode.UNAUTHENTICATED
    assert code_of(predict, "open", None) is grpc.StatusCode.OK


def test_a_caller_needs_the_right_and_to_be_among_them():
    reserved = Reserved()
    caller = Caller("ci", ["predict"], ["m*"], reserved=reserved)
    everyone = Caller("anyone", named=False, reserved=reserved)
    assert everyone.may("predict", "m1")
    reserved.set({name: Restriction(of) for name, of in {"m1": ("c?",), "m2": ("other",), "x": ("ci",)}.items()})
    assert not everyone.may("predict", "m1")
    assert [caller.may("predict", model) for model in ("m1", "m2", "m3", "x")] == [True, False, True, False]
    assert not caller.may("read", "m1")
    caller.check_model("predict", "m1")
    reserved.set({"m1": Restriction(())})
    with pytest.raises(Exception, match="model 'm1': caller 'ci' has no right 'predict' on it"):
        caller.check_model("predict", "m1")


def test_a_check_that_ends_after_a_change_is_not_kept():
    """Two requests of a caller at once: one is being checked while the model's callers change, and another comes."""
    reserved = Reserved()
    caller = Caller("ci", reserved=reserved)
    admits = reserved.admits

    def change(*arguments, **options):
        reserved.admits = admits
        admitted = admits(*arguments, **options)
        reserved.set({"m": Restriction(("other",))})
        caller.check_model("predict", "n")
        return admitted

    reserved.admits = change
    caller.check_model("predict", "m")
    with pytest.raises(ForbiddenError):
        caller.check_model("predict", "m")


def test_what_can_not_be_read_is_open_to_those_who_manage_it():
    reserved = Reserved()
    reserved.set({"m": UNREADABLE})
    reader = Caller("ci", ["predict", "read", "train"], reserved=reserved)
    manager = Caller("ops", ["predict", "manage"], ["m"], reserved=reserved)
    assert [reader.may(right, "m") for right in ("predict", "read", "train")] == [False] * 3
    assert manager.may("predict", "m")
    assert (reader.lost("m") is None, manager.lost("m") is None) == (False, True)
    assert not Caller("ops", ["predict", "manage"], ["n"], reserved=reserved).may("manage", "m")


@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_of_several_models_outlives_the_right_on_one(whole):
    """Its requests are checked one by one."""
    reserved = Reserved()
    stream = ServerStream(None, "/a/B", "")
    stream.caller = Caller("shop", reserved=reserved)
    stream.set_metric_labels("m", 1, whole=whole)
    stream.check_stalled(0.0, 1.0, 1.0)
    stream.check()
    reserved.set({name: Restriction(("a",)) for name in ("other", "m")})
    stream.check_stalled(0.0, 1.0, 1.0)
    assert stream.listens() is not whole
    if whole:
        with pytest.raises(ForbiddenError):
            stream.check()
    else:
        stream.check()
