"""The client half of open_inference.py, for a Python with tritonclient: triton_client.py PORT INPUTS ANSWERS.

Asks for every model of INPUTS (an .npz of arrays named "model/input") by each kind of call of tritonclient, and writes
the outputs to ANSWERS as "model/output/kind". Prints what else it finds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

SECONDS = 60


def inputs_of(arrays: dict[str, np.ndarray]) -> list[triton.InferInput]:
    made = []
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype.kind in "SUO" else np_to_triton_dtype(array.dtype)
        tensor = triton.InferInput(name, array.shape, datatype)
        tensor.set_data_from_numpy(array.astype(object) if datatype == "BYTES" else array)
        made.append(tensor)
    return made


def main(port: str, inputs: str, answers: str) -> None:
    given: dict[str, dict[str, np.ndarray]] = {}
    for key, array in np.load(inputs).items():
        model, name = key.split("/", 1)
        given.setdefault(model, {})[name] = array
    found: dict[str, np.ndarray] = {}

    def keep(model: str, kind: str, result: triton.InferResult) -> None:
        for output in result.get_response().outputs:
            found[f"{model}/{output.name}/{kind}"] = result.as_numpy(output.name)

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    arrived: queue.Queue = queue.Queue()

    def arrive(result, error) -> None:
        arrived.put((result, error))

    facts: dict[str, object] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": sorted(model.name for model in client.get_model_repository_index().models),
        "extensions": list(client.get_server_metadata().extensions),
    }
    for model, arrays in given.items():
        tensors = inputs_of(arrays)
        assert client.is_model_ready(model)
        metadata = client.get_model_metadata(model)
        config = client.get_model_config(model).config
        assert [tensor.name for tensor in metadata.inputs] == [tensor.name for tensor in config.input]
        keep(model, "infer", client.infer(model, tensors, request_id="1"))
        keep(model, "again", client.infer(model, tensors, request_id="2", compression_algorithm="gzip"))
        client.async_infer(model, tensors, arrive)
        result, error = arrived.get(timeout=SECONDS)
        assert error is None, error
        keep(model, "async", result)
        outputs = [triton.InferRequestedOutput(tensor.name) for tensor in metadata.outputs[:1]]
        keep(model, "chosen", client.infer(model, tensors, outputs=outputs, priority=1, timeout=10_000_000))
    client.start_stream(arrive)
    for model, arrays in given.items():
        client.async_stream_infer(model, inputs_of(arrays), request_id=model, enable_empty_final_response=True)
    for model in given:
        result, error = arrived.get(timeout=SECONDS)
        assert error is None, error
        assert result.get_response().id == model, "replies come in the order of the requests"
        keep(model, "stream", result)
    client.stop_stream()
    statistics = client.get_inference_statistics().model_stats
    facts["counted"] = {one.name: one.inference_stats.success.count for one in statistics}
    try:
        client.infer("unknown", [])
    except InferenceServerException as error:
        facts["unknown"] = error.status()

    async def asynchronous() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
            for model, arrays in given.items():
                keep(model, "aio", await client.infer(model, inputs_of(arrays)))

    asyncio.run(asynchronous())
    # Every field that this server's messages have, with the number that Triton's have.
    facts["fields"] = {
        f"{message.full_name}.{field.name}": [field.number, field.type]
        for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
        for message in nested(file.message_types_by_name.values())
        for field in message.fields
    }
    np.savez(answers, **found)
    print(json.dumps(facts))


def nested(messages):
    for message in messages:
        yield message
        yield from nested(message.nested_types)


if __name__ == "__main__":
    main(*sys.argv[1:])
