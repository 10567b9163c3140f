"""Predict as clients of TensorFlow Serving call it, on both transports: names, signatures, versions, refusals."""

import grpc
import layergraph
import numpy as np
import pytest
from google.protobuf.internal.encoder import _VarintBytes as varint
from layergraph import layers
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import (
    TensorProto,
)
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictRequest,
    PredictResponse,
)
from layerserve_server.extensions.tensorflow_serving.tensors import TensorFlowTensor, encode
from layerserve_server.services.prediction import predictor

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(params=["grpcio", "native"])
def transport(request):
    return request.param


@pytest.fixture
def ask(start, put, connect, transport):
    """A function that sends a request to a server with these models, and returns the reply's arrays and model_spec."""

    def serve(*models, **settings):
        for model in models:
            put(model)
        made = {"load": settings.pop("load")} if "load" in settings else {}
        app = start(transport=transport, tuning_seconds=0, **made, **settings)
        stub = connect(app).unary_unary("/tensorflow.serving.PredictionService/Predict", None, None)

        def send(message=None, /, inputs=None, outputs=(), **spec):
            if message is None:
                message = request(inputs or {}, outputs, **spec)
            message = message if isinstance(message, bytes) else message.SerializeToString()
            reply = PredictResponse.FromString(stub(message, timeout=30))
            return {name: TensorFlowTensor(name, tensor).array() for name, tensor in reply.outputs.items()}, reply

        return send

    return serve


def request(inputs, outputs=(), **spec):
    message = PredictRequest(output_filter=outputs)
    version = spec.pop("version", None)
    if version is not None:
        message.model_spec.version.value = version
    for key, value in {"name": "double", **spec}.items():
        setattr(message.model_spec, key, value)
    for name, given in inputs.items():
        message.inputs[name].CopyFrom(given if isinstance(given, TensorProto) else in_content(given))
    return message


def in_content(array):
    message = encode(array)
    if array.dtype.kind == "O":
        return message
    return TensorProto(dtype=message.dtype, tensor_shape=message.tensor_shape, tensor_content=array.tobytes())


def refused(send, *arguments, **options):
    with pytest.raises(grpc.RpcError) as refusal:
        send(*arguments, **options)
    return refusal.value.code().name, refusal.value.details()


def test_the_reply_names_version_and_signature(ask):
    send = ask("double")
    for _ in range(3):
        arrays, reply = send(inputs={"x": ROWS})
        assert list(arrays) == ["output_0"]
        np.testing.assert_array_equal(arrays["output_0"], ROWS * 2)
        spec = reply.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("double", 1, "serving_default")
        # As TensorFlow Serving sends numbers, for clients that read the field.
        assert list(reply.outputs["output_0"].float_val) == (ROWS * 2).ravel().tolist()


def test_keys_of_signatures(ask):
    send = ask("double")
    assert send(inputs={"x": ROWS}, signature_name="serve")[1].model_spec.signature_name == "serve"
    assert refused(send, inputs={"x": ROWS}, signature_name="other") == (
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found. Expected one of {serving_default}.',
    )


def test_versions_and_labels(ask, put, tmp_path):
    put("double", 2, offset=7)
    (tmp_path / "models" / "double" / "labels.json").write_text('{"old": 1}')
    send = ask("double")
    for spec, version in (({}, 2), ({"version": 1}, 1), ({"version_label": "old"}, 1), ({"version": 2}, 2)):
        arrays, reply = send(inputs={"x": ROWS}, **spec)
        assert reply.model_spec.version.value == version
        np.testing.assert_array_equal(arrays["output_0"], ROWS * 2 + (7 if version == 2 else 0))
    assert refused(send, inputs={"x": ROWS}, version=3)[0] == "NOT_FOUND"
    assert refused(send, inputs={"x": ROWS}, version=0)[0] == "NOT_FOUND"
    assert refused(send, inputs={"x": ROWS}, version_label="new")[0] == "NOT_FOUND"
    assert refused(send, inputs={"x": ROWS}, name="other")[0] == "NOT_FOUND"
    code, text = refused(send, inputs={"x": ROWS}, name="")
    assert (code, text) == ("INVALID_ARGUMENT", "model_spec: got no name, expected the name of a model")


def two_inputs():
    """a and an input without a name -> their sum, and the difference."""
    first, second = layergraph.Input((2,), name="a"), layergraph.Input((2,))
    return layergraph.Model([first, second], [layers.Add()([first, second]), layers.Subtract()([first, second])])


def test_every_name_of_inputs_and_outputs(ask):
    model = two_inputs()
    own, outputs = model.input_names[1], model.output_names
    send = ask("double", load=lambda path: model)
    for name in (own, "keras_tensor_1", "keras_tensor", "keras_tensor_17"):
        arrays, _ = send(inputs={"a": ROWS, name: ROWS + 1})
        assert sorted(arrays) == ["output_0", "output_1"]
        np.testing.assert_array_equal(arrays["output_0"], 2 * ROWS + 1)
        np.testing.assert_array_equal(arrays["output_1"], ROWS * 0 - 1)
    inputs = {"a": ROWS, own: ROWS + 1}
    assert set(send(inputs=inputs, outputs=["output_1"])[0]) == {"output_1"}
    arrays, _ = send(inputs=inputs, outputs=[outputs[1], "output_0"])
    assert set(arrays) == {outputs[1], "output_0"}
    np.testing.assert_array_equal(arrays["output_0"], 2 * ROWS + 1)
    np.testing.assert_array_equal(arrays[outputs[1]], ROWS * 0 - 1)


def test_inputs_without_a_name_go_by_their_numbers(ask):
    inputs = [layergraph.Input((2,), name=f"input_layer{suffix}") for suffix in ("", "_1", "_2")]
    scaled = [layers.Rescaling(scale)(x) for scale, x in zip((1, 10, 100), inputs, strict=True)]
    model = layergraph.Model(inputs, layers.Add()(scaled))
    send = ask("double", load=lambda path: model)
    given = {"keras_tensor_10": 100, "keras_tensor_9": 10, "keras_tensor": 1}
    arrays, _ = send(inputs={name: np.full((1, 2), value, np.float32) for name, value in given.items()})
    np.testing.assert_array_equal(arrays["output_0"], [[1 + 100 + 10000] * 2])


def test_inputs_that_the_outputs_dont_need_may_be_missing(ask):
    a, b = layergraph.Input((2,), name="a"), layergraph.Input((2,), name="b")
    model = layergraph.Model([a, b], {"one": layers.Rescaling(2)(a), "both": layers.Add()([a, b])})
    send = ask("double", load=lambda path: model)
    np.testing.assert_array_equal(send(inputs={"a": ROWS}, outputs=["one"])[0]["one"], 2 * ROWS)
    code, text = refused(send, inputs={"a": ROWS}, outputs=["both"])
    assert (code, "Missing but required: {b}" in text) == ("INVALID_ARGUMENT", True)


def test_wrong_sets_of_inputs_and_outputs_are_told_apart(ask):
    model = two_inputs()
    own = model.input_names[1]
    expected = ",".join(sorted(["a", own]))
    send = ask("double", load=lambda path: model)
    for inputs, extra, missing in (
        ({"a": ROWS}, "", own),
        ({}, "", f"a,{own}"),
        ({"a": ROWS, own: ROWS, "b": ROWS}, "b", ""),
        ({"a": ROWS, "b": ROWS}, "b", own),
        ({"a": ROWS, "keras_tensor": ROWS, "keras_tensor_1": ROWS}, "keras_tensor,keras_tensor_1", own),
        ({"": ROWS, own: ROWS}, "", "a"),
    ):
        code, text = refused(send, inputs=inputs)
        assert code == "INVALID_ARGUMENT"
        assert f"Inputs expected to be in the set {{{expected}}}. " in text
        assert f"Sent extra: {{{extra}}}. Missing but required: {{{missing}}}." in text
    inputs = {"a": ROWS, own: ROWS}
    assert refused(send, inputs=inputs, outputs=["nothing"]) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: nothing Outputs expected to be in the set {output_0,output_1}.",
    )
    code, text = refused(send, inputs=inputs, outputs=["output_0", "output_0"])
    assert (code, text) == ("INVALID_ARGUMENT", "duplicate output tensor alias: output_0")
    assert refused(send, inputs=inputs, outputs=["output_0", model.output_names[0]])[0] == "INVALID_ARGUMENT"


def test_wrong_arrays_are_refused(ask):
    send = ask("double")
    code, text = refused(send, inputs={"x": ROWS[:, :1]})
    assert (code, "expected 2" in text) == ("INVALID_ARGUMENT", True)
    assert refused(send, inputs={"x": np.array([["a", "b"]], dtype=object)})[0] == "INVALID_ARGUMENT"
    assert refused(send, b"\xff\xff")[0] == "INVALID_ARGUMENT"
    huge = TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1 << 50}, {"size": 2}]}, float_val=[1])
    assert refused(send, inputs={"x": huge})[0] == "INVALID_ARGUMENT"
    np.testing.assert_array_equal(send(inputs={"x": ROWS})[0]["output_0"], ROWS * 2)


def test_other_dtypes_and_outputs_of_every_kind(ask):
    x = layergraph.Input((2,), name="x", dtype="int64")
    model = layergraph.Model(x, {"whole": layers.Identity()(x), "half": layers.Rescaling(0.5, dtype="float16")(x)})
    send = ask("double", load=lambda path: model)
    for given in (np.array([[3, -4]]), np.array([[3, -4]], np.int16)):
        arrays, reply = send(inputs={"x": given})
        assert arrays["whole"].tolist() == [[3, -4]]
        assert (arrays["half"].dtype, arrays["half"].tolist()) == (np.dtype("float16"), [[1.5, -2]])
        assert list(reply.outputs["whole"].int64_val) == [3, -4]


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


HEAD = field(1, field(1, b"double"))
#: DT_FLOAT and a shape of (1, 2).
KIND = b"\x08\x01" + field(2, field(2, b"\x08\x01") + field(2, b"\x08\x02"))


def entry(elements, name="x"):
    """An input, whose elements are these bytes."""
    return field(2, field(1, name.encode()) + field(2, KIND + elements))


@pytest.fixture
def parsed(monkeypatch):
    """Counts the messages that were parsed."""
    seen = []
    parse = predictor.Predictor._parse

    def count(self, call, *rest):
        seen.append(call.request)
        return parse(self, call, *rest)

    monkeypatch.setattr(predictor.Predictor, "_parse", count)
    return seen


@pytest.mark.parametrize("fields", ["content", "values"])
def test_arrays_in_one_piece_are_read_in_place(ask, parsed, fields):
    send = ask("double")
    for number in range(4):
        row = np.array([[number, 0.5]], np.float32)
        arrays, _ = send(HEAD + entry(field({"content": 4, "values": 5}[fields], row.tobytes())))
        np.testing.assert_array_equal(arrays["output_0"], row * 2)
    assert len(parsed) == 1


ROW = np.array([[1.5, 2.5]], np.float32)
CONTENT, VALUES, ZEROS = field(4, ROW.tobytes()), field(5, ROW.tobytes()), bytes(8)
