"""Endpoints: what a version has ready for the outputs that requests ask for."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from fake_plans import Plan, Spec
from layergraph import Input, Model, layers
from layergraph.execution.sequence_padding import SequencePadding
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.runner import load_model
from layerserve_server.services.prediction import endpoint
from layerserve_server.services.prediction.endpoint import endpoint_of
from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs

PROTOCOL = LayerserveV1()


def version_of(made):
    """A version that notes the outputs for which plans are made."""
    plan = SimpleNamespace(batched=True, input_specs=())
    runner = SimpleNamespace(plan=lambda outputs: made.append(outputs) or plan, padding=lambda outputs, inputs: None)
    model = SimpleNamespace(input_specs=(), output_specs=(SimpleNamespace(name="y"),))
    return SimpleNamespace(name="m", version=1, runner=runner, model=model, endpoints={}, decoders={})


def test_callers_can_not_fill_the_memory_with_choices_of_outputs():
    made = []
    version = version_of(made)
    for number in range(3 * endpoint.MAX_KEPT):
        found = endpoint_of(version, RequestedOutputs(PROTOCOL, (f"y{number}",)))
        assert found.computed == (f"y{number}",)
        assert endpoint_of(version, RequestedOutputs(PROTOCOL, (f"y{number}",))) is found
        assert len(version.endpoints) <= endpoint.MAX_KEPT
    assert len(made) == 3 * endpoint.MAX_KEPT


def test_no_outputs_are_all_of_the_models():
    assert endpoint_of(version_of([]), RequestedOutputs(PROTOCOL, ())).computed == ("y",)


def test_outputs_that_are_repeated_are_refused_and_not_kept():
    made = []
    version = version_of(made)
    with pytest.raises(InvalidRequestError, match="output 'z': given 2 times, expected once"):
        endpoint_of(version, RequestedOutputs(PROTOCOL, ("z", "z")))
    assert (made, version.endpoints) == ([], {})


@pytest.mark.parametrize("padding", [None, SequencePadding({"x": 0}, {}, equal_lengths=False, unmasked=frozenset())])
def test_requests_for_the_same_outputs_by_other_inputs_are_not_batched(padding):
    """All outputs of a model without their names need all of its inputs, as in Keras; by name, only those used."""
    x, spare = Spec("x", (None, 2), "float32"), Spec("spare", (None, 2), "float32")
    runner = SimpleNamespace(
        plan=lambda outputs: Plan(x) if outputs else Plan(x, spare), padding=lambda outputs, inputs: padding
    )
    model = SimpleNamespace(input_specs=(x, spare), output_specs=(SimpleNamespace(name="y"),))
    version = SimpleNamespace(name="m", version=1, runner=runner, model=model, endpoints={}, decoders={})
    whole, named = (endpoint_of(version, RequestedOutputs(PROTOCOL, outputs)) for outputs in ((), ("y",)))
    assert whole.computed == named.computed
    arrays = {"x": np.ones((1, 2)), "spare": np.ones((1, 2))}
    if padding is None:
        assert whole.admission.group != named.admission.group
    else:
        assert whole.admission.padded_group(arrays) != named.admission.padded_group({"x": arrays["x"]})


def test_callers_with_and_without_an_unused_input_fail_none_of_each_other(tmp_path, start, connect):
    x, spare = Input((2,), name="x"), Input((2,), name="spare")
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    Model([x, spare], layers.Dense(3, name="y")(x)).save(tmp_path / "models" / "m" / "1" / "model.keras")
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(start(tmp_path / "models", load_model, tuning_seconds=0)))
    array = np.arange(6, dtype=np.float32).reshape(3, 2)

    def ask(number):
        whole = number % 2
        inputs = [tensors.encode(array, name) for name in (("x", "spare") if whole else ("x",))]
        request = prediction_pb2.PredictRequest(
            model=tensor_pb2.ModelSpec(name="m"), inputs=inputs, outputs=[] if whole else ["y"]
        )
        return tensors.decode(stub.Predict(request, timeout=60).outputs[0])

    expected = ask(0)
    with ThreadPoolExecutor(16) as pool:
        for got in pool.map(ask, range(600)):
            np.testing.assert_allclose(got, expected, rtol=1e-6)
