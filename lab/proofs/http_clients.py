"""The client half of compare_http.py: asks with tritonclient, KServe's two InferenceClients, MLServer's, or requests.

http_clients.py triton|kserve|kserve_grpc|mlserver|mlserver_grpc|requests PORT FOLDER
    asks with the arrays of FOLDER/inputs.npz ("model/input"), and writes FOLDER/NAME.npz ("model/way/output")
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

Answers = dict[str, np.ndarray]


def grouped(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The inputs by model and name."""
    models: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "inputs.npz") as held:
        for key in held.files:
            model, _, name = key.partition("/")
            models.setdefault(model, {})[name] = held[key]
    return models


def datatype(array: np.ndarray) -> str:
    return {"float32": "FP32", "int32": "INT32", "int64": "INT64"}[array.dtype.name]


def triton(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """Each way of sending and asking for elements, each coding, classification, and all methods that describe."""
    import tritonclient.http as http

    client = http.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "layerserve"
    assert {one["name"] for one in client.get_model_repository_index()} >= models.keys()
    assert client.get_trace_settings()
    assert client.get_log_settings()
    assert client.get_system_shared_memory_status() == client.get_cuda_shared_memory_status() == []
    answers: Answers = {}
    for model, arrays in models.items():
        assert client.is_model_ready(model)
        names = [one["name"] for one in client.get_model_metadata(model)["outputs"]]
        assert client.get_model_config(model)["name"] == model
        for sent in (True, False):
            for asked in (True, False):
                for coding in (None, "gzip", "deflate"):
                    inputs = []
                    for name, array in arrays.items():
                        inputs.append(http.InferInput(name, list(array.shape), datatype(array)))
                        inputs[-1].set_data_from_numpy(array, binary_data=sent)
                    outputs = [http.InferRequestedOutput(name, binary_data=asked) for name in names]
                    result = client.infer(
                        model,
                        inputs,
                        outputs=outputs,
                        request_id="7",
                        request_compression_algorithm=coding,
                        response_compression_algorithm=coding,
                    )
                    assert result.get_response()["id"] == "7"
                    for name in names:
                        answers[f"{model}/{sent} {asked} {coding}/{name}"] = result.as_numpy(name)
        waiting = [client.async_infer(model, inputs) for _ in range(4)]
        for one in waiting:
            result = one.get_result()
            for name in names:
                answers[f"{model}/async/{name}"] = result.as_numpy(name)
        classes = client.infer(model, inputs, outputs=[http.InferRequestedOutput(names[0], class_count=1)])
        value, _, index = classes.as_numpy(names[0])[0][0].decode().partition(":")
        whole = answers[f"{model}/async/{names[0]}"][0].ravel()
        assert abs(whole[int(index)] - whole.max()) < 1e-5
        assert abs(float(value) - whole.max()) < 1e-4
        assert client.get_inference_statistics(model)["model_stats"][0]["inference_stats"]["success"]["count"] > 0
    status = ""
    try:
        client.infer("no such model", inputs)
    except http.InferenceServerException as error:
        status = error.status()
    assert status == "404"
    return answers


def kserve(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """Both protocols of KServe."""
    from kserve import InferenceRESTClient, InferInput, InferRequest
    from kserve.inference_client import RESTConfig

    url = f"http://127.0.0.1:{port}"
    answers: Answers = {}

    async def ask() -> None:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as first:
            assert await first.is_server_live(url)
            for model, arrays in models.items():
                assert await first.is_model_ready(url, model)
                count = len(next(iter(arrays.values())))
                rows = [{name: array[row].tolist() for name, array in arrays.items()} for row in range(count)]
                reply = await first.infer(url, {"instances": rows}, model_name=model)
                collect(answers, model, "v1", reply["predictions"])
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as second:
            assert await second.is_server_live(url)
            assert await second.is_server_ready(url)
            for model, arrays in models.items():
                assert await second.is_model_ready(url, model)
                for binary in (True, False):
                    inputs = []
                    for name, array in arrays.items():
                        inputs.append(InferInput(name, list(array.shape), datatype(array)))
                        inputs[-1].set_data_from_numpy(array, binary_data=binary)
                    reply = await second.infer(url, InferRequest(model, inputs), model_name=model)
                    for output in reply.outputs:
                        answers[f"{model}/v2 {binary}/{output.name}"] = output.as_numpy()

    asyncio.run(ask())
    return answers


def kserve_grpc(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """KServe's client of the Open Inference Protocol over gRPC, with typed and with raw elements."""
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    answers: Answers = {}

    async def ask() -> None:
        async with InferenceGRPCClient(f"127.0.0.1:{port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            for model, arrays in models.items():
                assert await client.is_model_ready(model)
                for binary in (True, False):
                    inputs = []
                    for name, array in arrays.items():
                        inputs.append(InferInput(name, list(array.shape), datatype(array)))
                        inputs[-1].set_data_from_numpy(array, binary_data=binary)
                    reply = await client.infer(InferRequest(model, inputs, request_id="7"))
                    assert reply.id == "7"
                    for output in reply.outputs:
                        answers[f"{model}/{binary}/{output.name}"] = output.as_numpy()

    asyncio.run(ask())
    return answers


def mlserver(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """MLServer's types and codecs over HTTP, and its command `infer`, whose requests are rows."""
    import requests as http
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse

    answers: Answers = {}
    with http.Session() as session, tempfile.TemporaryDirectory() as folder:
        for model, arrays in models.items():
            address = f"http://127.0.0.1:{port}/v2/models/{model}"
            described = MetadataModelResponse.model_validate_json(session.get(address).content)
            assert {one.name for one in described.inputs or ()} == arrays.keys()
            inputs = [NumpyCodec.encode_input(name, array) for name, array in arrays.items()]
            body = InferenceRequest(id="7", inputs=inputs).model_dump_json(exclude_none=True)
            reply = session.post(f"{address}/infer", body, timeout=60)
            reply.raise_for_status()
            parsed = InferenceResponse.model_validate_json(reply.content)
            assert parsed.id == "7"
            for output in parsed.outputs:
                answers[f"{model}/codec/{output.name}"] = NumpyCodec.decode_output(output)
            for binary in ([], ["--binary-data"]):
                rows = command(model, arrays, port, Path(folder), binary)
                for name in [output.name for output in parsed.outputs]:
                    decoded = [NumpyCodec.decode_output(one) for row in rows for one in row.outputs if one.name == name]
                    answers[f"{model}/infer {binary}/{name}"] = np.concatenate(decoded)
    return answers


def command(model: str, arrays: dict[str, np.ndarray], port: int, folder: Path, more: list[str]) -> list:
    """The replies of MLServer's command for each row, in their order."""
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceRequest, InferenceResponse

    given, got = folder / "given.jsonl", folder / "got.jsonl"
    with given.open("w") as file:
        for row in range(len(next(iter(arrays.values())))):
            inputs = [NumpyCodec.encode_input(name, array[row : row + 1]) for name, array in arrays.items()]
            file.write(InferenceRequest(inputs=inputs).model_dump_json(exclude_none=True) + "\n")
    program = [str(Path(sys.executable).with_name("mlserver")), "infer", "--url", f"127.0.0.1:{port}"]
    subprocess.run([*program, "-m", model, "-i", str(given), "-o", str(got), "-s", "2", *more], check=True)
    rows = [InferenceResponse.model_validate_json(line) for line in got.read_text().splitlines()]
    return sorted(rows, key=lambda row: row.parameters.model_extra["batch_index"])


def mlserver_grpc(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """MLServer's stubs and converters of the Open Inference Protocol, with typed and with raw elements."""
    import grpc
    from mlserver.codecs import NumpyCodec
    from mlserver.grpc import dataplane_pb2 as pb
    from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
    from mlserver.types import InferenceRequest

    answers: Answers = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        for model, arrays in models.items():
            assert stub.ModelReady(pb.ModelReadyRequest(name=model)).ready
            assert stub.ModelMetadata(pb.ModelMetadataRequest(name=model)).name == model
            for raw in (True, False):
                inputs = [NumpyCodec.encode_input(name, array) for name, array in arrays.items()]
                request = ModelInferRequestConverter.from_types(
                    InferenceRequest(inputs=inputs), model_name=model, model_version=None, use_raw=raw
                )
                for output in ModelInferResponseConverter.to_types(stub.ModelInfer(request)).outputs:
                    answers[f"{model}/{raw}/{output.name}"] = NumpyCodec.decode_output(output)
    return answers


def requests(port: int, models: dict[str, dict[str, np.ndarray]]) -> Answers:
    """TensorFlow Serving's form in rows and columns, by a client that knows HTTP only."""
    import requests as http

    answers: Answers = {}
    with http.Session() as session:
        for model, arrays in models.items():
            address = f"http://127.0.0.1:{port}/v1/models/{model}"
            assert session.get(address).json()["model_version_status"][0]["state"] == "AVAILABLE"
            assert (
                "serving_default"
                in session.get(f"{address}/metadata").json()["metadata"]["signature_def"]["signature_def"]
            )
            columns = {name: array.tolist() for name, array in arrays.items()}
            reply = session.post(f"{address}:predict", json={"inputs": columns}, timeout=60)
            reply.raise_for_status()
            outputs = reply.json()["outputs"]
            named = outputs if isinstance(outputs, dict) else {"": outputs}
            for name, values in named.items():
                answers[f"{model}/columns/{name}"] = np.array(values, np.float32)
            count = len(next(iter(arrays.values())))
            rows = [{name: array[row].tolist() for name, array in arrays.items()} for row in range(count)]
            reply = session.post(f"{address}/versions/1:predict", json={"instances": rows}, timeout=60)
            reply.raise_for_status()
            collect(answers, model, "rows", reply.json()["predictions"])
    return answers


def collect(answers: Answers, model: str, way: str, rows: list) -> None:
    """Adds rows of outputs: objects by name where there are several."""
    named = rows if isinstance(rows[0], dict) else [{"": row} for row in rows]
    for name in named[0]:
        answers[f"{model}/{way}/{name}"] = np.array([row[name] for row in named], np.float32)


if __name__ == "__main__":
    which, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    clients = {
        **{"triton": triton, "kserve": kserve, "kserve_grpc": kserve_grpc, "requests": requests},
        **{"mlserver": mlserver, "mlserver_grpc": mlserver_grpc},
    }
    found = clients[which](port, grouped(folder))
    np.savez(folder / f"{which}.npz", **found)
