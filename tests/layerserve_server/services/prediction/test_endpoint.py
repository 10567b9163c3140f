"""Endpoints: what a version has ready for the outputs that requests ask for."""

from types import SimpleNamespace

import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.services.prediction import endpoint
from layerserve_server.services.prediction.contract import Selection
from layerserve_server.services.prediction.endpoint import endpoint_of
from layerserve_server.services.prediction.own_contract import OwnContract

CONTRACT = OwnContract()


def version_of(made):
    """A version that notes the outputs for which plans are made."""
    plan = SimpleNamespace(batched=True, input_specs=())
    runner = SimpleNamespace(plan=lambda outputs: made.append(outputs) or plan, padding=lambda outputs, inputs: None)
    model = SimpleNamespace(input_specs=(), output_specs=(SimpleNamespace(name="y"),))
    return SimpleNamespace(name="m", version=1, runner=runner, model=model, endpoints={})


def test_callers_can_not_fill_the_memory_with_choices_of_outputs():
    made = []
    version = version_of(made)
    for number in range(3 * endpoint.MAX_KEPT):
        found = endpoint_of(version, Selection(CONTRACT, (f"y{number}",)))
        assert found.computed == (f"y{number}",)
        assert endpoint_of(version, Selection(CONTRACT, (f"y{number}",))) is found
        assert len(version.endpoints) <= endpoint.MAX_KEPT
    assert len(made) == 3 * endpoint.MAX_KEPT


def test_no_outputs_are_all_of_the_models():
    assert endpoint_of(version_of([]), Selection(CONTRACT, ())).computed == ("y",)


def test_outputs_that_are_repeated_are_refused_and_not_kept():
    made = []
    version = version_of(made)
    with pytest.raises(InvalidRequestError, match="output 'z': given 2 times, expected once"):
        endpoint_of(version, Selection(CONTRACT, ("z", "z")))
    assert (made, version.endpoints) == ([], {})
