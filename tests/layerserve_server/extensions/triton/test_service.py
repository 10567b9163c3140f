"""Triton's methods for operators through a real port."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from inference_stub import X, infer, output
from layerserve_server.protocols.inference import inference_pb2 as pb


def test_versions_and_their_configuration_are_described(serve_infer, put):
    app, call = serve_infer()
    config = call("ModelConfig", pb.ModelConfigRequest(name="double")).config
    assert config.max_batch_size == app.settings.max_batch_rows
    assert list(config.input) == [pb.ModelInput(name="x", data_type=pb.TYPE_FP32, dims=[2])]
    assert config.HasField("dynamic_batching")
    assert config.version_policy.latest.num_versions == 1
    put("broken", text="no model")
    for _ in range(2):  # it has to be unchanged in between
        app.repository.scan()
    index = call("RepositoryIndex", pb.RepositoryIndexRequest()).models
    assert [(one.name, one.version, one.state) for one in index] == [
        ("broken", "1", "UNAVAILABLE"),
        ("double", "1", "READY"),
    ]
    assert "truncated" in index[0].reason
    assert len(call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models) == 1


def test_a_model_whose_rows_can_not_be_batched_has_full_shapes(serve_infer, put):
    app, call = serve_infer()
    put("alone", batched=False)
    for _ in range(2):
        app.repository.scan()
    config = call("ModelConfig", pb.ModelConfigRequest(name="alone")).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 2])
    assert not config.HasField("dynamic_batching")


def test_the_configuration_names_files_of_class_labels(serve_infer, tmp_path):
    folder = tmp_path / "models" / "double"
    folder.mkdir(parents=True)
    (folder / "layerserve.toml").write_text('class_labels = { y = "animals_labels.txt" }')
    (folder / "animals_labels.txt").write_text("cat\ndog")
    _, call = serve_infer()
    (output,) = call("ModelConfig", pb.ModelConfigRequest(name="double")).config.output
    assert (output.name, output.label_filename) == ("y", "animals_labels.txt")


def test_statistics_count_requests_rows_and_batches(serve_infer, wait_until):
    _, call = serve_infer()

    def statistics(name="", requests=4):
        def found():
            (one,) = call("ModelStatistics", pb.ModelStatisticsRequest(name=name)).model_stats
            return one

        # A request is counted after its reply is sent.
        wait_until(lambda: found().inference_stats.success.count + found().inference_stats.fail.count == requests)
        return found()

    for _ in range(3):
        call("ModelInfer", infer())
    with pytest.raises(grpc.RpcError):
        call("ModelInfer", infer(X[:, :1]))
    found = statistics("double")
    assert (found.inference_count, found.execution_count) == (9, 3)
    stats = found.inference_stats
    assert [part.count for part in (stats.success, stats.fail, stats.queue, stats.compute_infer)] == [3, 1, 3, 3]
    assert 0 < stats.compute_infer.ns <= stats.success.ns
    assert statistics() == found
    assert len(list(call.stream(iter([infer(), infer(), infer(X[:, :1])])))) == 3
    stats = statistics(requests=7).inference_stats
    assert [part.count for part in (stats.success, stats.fail, stats.queue, stats.compute_infer)] == [5, 2, 5, 5]
    assert stats.success.ns > found.inference_stats.success.ns
    with pytest.raises(grpc.RpcError, match="unknown model"):
        call("ModelStatistics", pb.ModelStatisticsRequest(name="nope"))


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(name="a")),
        ("TraceSetting", pb.TraceSettingRequest(settings={"trace_level": {"value": ["TIMESTAMPS"]}})),
        ("LogSettings", pb.LogSettingsRequest(settings={"log_info": {"bool_param": False}})),
    ],
)
def test_what_is_not_there_is_unimplemented(serve_infer, method, request_):
    _, call = serve_infer()
    with pytest.raises(grpc.RpcError) as caught:
        call(method, request_)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details()


def test_settings_and_regions_are_read(serve_infer):
    _, call = serve_infer()
    assert call("TraceSetting", pb.TraceSettingRequest()).settings["trace_level"].value == ["OFF"]
    assert call("LogSettings", pb.LogSettingsRequest()).settings["log_error"].bool_param
    assert not call("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()).regions
    call("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest())


def test_models_are_unloaded_and_loaded(serve_infer):
    _, call = serve_infer()

    def states():
        return [one.state for one in call("RepositoryIndex", pb.RepositoryIndexRequest()).models]

    call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="double"))
    assert "READY" not in states()
    assert not call("ModelReady", pb.ModelReadyRequest(name="double")).ready
    with pytest.raises(grpc.RpcError, match="the model isn't loaded"):
        call("ModelInfer", infer())
    call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="double"))
    assert states() == ["READY"]
    np.testing.assert_array_equal(output(call("ModelInfer", infer())), 2 * X)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (pb.RepositoryModelLoadRequest(model_name="nope"), grpc.StatusCode.NOT_FOUND, "nope"),
        (pb.RepositoryModelLoadRequest(), grpc.StatusCode.INVALID_ARGUMENT, "model_name: got none"),
        (
            pb.RepositoryModelLoadRequest(model_name="double", repository_name="other"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "repository_name: got 'other'",
        ),
        (
            pb.RepositoryModelLoadRequest(
                model_name="double", parameters={"config": pb.ModelRepositoryParameter(string_param="{}")}
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "parameters: got 'config', expected none",
        ),
    ],
)
def test_loads_that_can_not_be_done_say_why(serve_infer, request_, code, text):
    _, call = serve_infer()
    with pytest.raises(grpc.RpcError) as caught:
        call("RepositoryModelLoad", request_)
    assert caught.value.code() is code
    assert text in caught.value.details()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (infer(name="nope"), "Request for unknown model: 'nope' is not found; known: double"),
        (infer(name="doubl"), "'doubl' is not found; did you mean 'double'?"),
        (infer(model_version="7"), "Request for unknown model: 'double' version 7 is not found; it has 1"),
    ],
)
def test_a_model_that_is_not_there_is_told_in_tritons_words(serve_infer, request_, text):
    _, call = serve_infer()
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request_)
    assert (caught.value.code(), text in caught.value.details()) == (grpc.StatusCode.NOT_FOUND, True)
