"""The servers that the serving benchmark compares with ours: that they answer, and that their answers are looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bench_serving
import grpc
import loads
import pytest
import servers
from h2load import Measured
from layerserve_server.protocols.inference import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/"
#: A peer that needs nothing more than ours, and the package of its engine.
PLAIN = [("grpcio-onnxruntime", "onnxruntime"), ("grpcio-openvino", "openvino")]


@pytest.fixture(name="models")
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(servers.TF2ONNX, raising=False)
    loads.write_models(tmp_path / "models", ["small"])
    return tmp_path / "models"


@pytest.mark.parametrize(("name", "engine"), PLAIN)
def test_a_plain_grpcio_server_gives_our_answers_and_what_perf_analyzer_asks(
    name: str, engine: str, models: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(engine)
    with servers.running(name, models, "small") as served, grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:

        def call(method: str, request: object, reply: type) -> object:
            stub = channel.unary_unary(METHOD + method, lambda message: message.SerializeToString(), reply.FromString)
            return stub(request, timeout=60)

        # `running` has compared one answer.
        asked = pb.ModelStatisticsRequest(name="small")
        (statistics,) = call("ModelStatistics", asked, pb.ModelStatisticsResponse).model_stats
        assert statistics.version == "1"
        assert statistics.inference_stats.queue.count == statistics.inference_stats.success.count == 1
        metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="small"), pb.ModelMetadataResponse)
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
            ("input_layer", "FP32", [-1, 784])
        ]
        assert [list(tensor.shape) for tensor in metadata.outputs] == [[-1, 10]]
        assert call("ModelConfig", pb.ModelConfigRequest(name="small"), pb.ModelConfigResponse).config.max_batch_size


def test_a_model_of_two_inputs_goes_to_the_right_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv(servers.TF2ONNX, raising=False)
    loads.write_models(tmp_path / "models", ["middle"])
    with servers.running("grpcio-onnxruntime-1thread", tmp_path / "models", "middle") as served:
        assert served.process.poll() is None


def test_a_server_that_answers_with_other_numbers_is_not_measured(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(servers.SERVERS, "constant", replace(servers.SERVERS["constant"], exact=True))
    with pytest.raises(RuntimeError, match="constant: small: got"), servers.running("constant", models, "small"):
        pytest.fail("it was measured")


def test_loads_for_the_same_command_share_a_server(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant = servers.SERVERS["constant"]
    other = replace(constant, load=lambda model: replace(constant.load(model), request=b"other"))
    monkeypatch.setitem(servers.SERVERS, "other", other)
    with servers.all_running(["constant", "other"], models, "small") as (first, second):
        assert first.process is second.process
        assert (first.name, second.name) == ("constant", "other")
        assert second.load.request == b"other" != first.load.request


def test_ratios_are_ours_to_each_other_server_round_by_round(capsys: pytest.CaptureFixture[str]) -> None:
    def runs(*rates: float) -> list[Measured]:
        return [Measured(rate, 1.0, 1.0, 1.0, 0) for rate in rates]

    rates = {"constant": runs(100, 10, 50), "native": runs(300, 20, 50), "grpcio": runs(100, 5, 500)}
    results = {(name, 4): measured for name, measured in rates.items()}
    bench_serving.show_ratios(["constant", "native", "grpcio"], [4], results)
    assert capsys.readouterr().out.splitlines()[-1] == "| grpcio, 16 threads, constant reply | 2.00, 1.00 |"
    # Without another server there is nothing to compare with.
    bench_serving.show_ratios(["native", "grpcio"], [4], results)
    assert capsys.readouterr().out == ""
