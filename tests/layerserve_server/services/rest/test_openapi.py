"""/openapi.json: valid, and of each model's inputs."""

from __future__ import annotations

import jsonschema
import pytest
from http_calls import Http
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.services.rest.openapi import ERRORS
from layerserve_zoo import headline
from openapi_spec_validator import validate
from tokens import write_tokens


def test_the_document_is_valid_and_lists_the_models_that_the_caller_may_read(serve, put, tmp_path):
    put("other-one")
    tokens = write_tokens(tmp_path / "tokens.toml")
    _, call = serve(tokens=tokens)
    assert call("GET", "/openapi.json").status == 401
    document = call("GET", "/openapi.json", Authorization="Bearer all").json
    validate(document)
    assert {"/v1/models/double:predict", "/v2/models/other-one/infer"} <= document["paths"].keys()
    document = call("GET", "/openapi.json", Authorization="Bearer other-models").json
    validate(document)
    assert "/v1/models/double:predict" not in document["paths"]
    assert "/v1/models/other-one:predict" in document["paths"]


@pytest.fixture(scope="module")
def zoo_document(tmp_path_factory):
    """The document of a server of the guide's model with two inputs and two outputs."""
    folder = tmp_path_factory.mktemp("zoo")
    headline.build(words=12, vocabulary=20, width=4, lstm_units=3, units=4).save(folder / "headline.keras")
    settings = Settings(
        path=folder, host="127.0.0.1", grpc_port=0, http_port=0, metrics_port=-1, drain_seconds=0, warm_training=False
    )
    with App(settings) as app:
        call = Http(app.http_port)
        document = call("GET", "/openapi.json").json
        row = {"main_input": [1] * 12, "aux_input": [0.5] * 5}
        reply = call("POST", "/v1/models/headline:predict", {"instances": [row]}).json
        call.close()
    validate(document)
    return document, row, reply


def fits(document, name, value):
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def test_requests_of_a_model_fit_its_schema_and_others_do_not(zoo_document):
    document, row, reply = zoo_document
    assert fits(document, "headline.PredictReply", reply)
    for path in ("/v1/models/headline:predict", "/v2/models/headline/infer"):
        assert document["paths"][path]["post"]["responses"].keys() == {"200", *ERRORS}
    (outputs,) = reply["predictions"]
    assert len(outputs) == 2
    assert not fits(document, "headline.PredictReply", {"predictions": [dict(list(outputs.items())[:1])]})
    assert not fits(document, "headline.PredictReply", {"error": "text"})
    assert fits(document, "headline.PredictRequest", {"instances": [row]})
    assert fits(document, "headline.PredictRequest", {"inputs": {name: [value] for name, value in row.items()}})
    for wrong in (
        {},
        {"instances": []},
        {"instances": [{"main_input": row["main_input"]}]},
        {"instances": [{**row, "aux_input": [0.5] * 4}]},
        {"instances": [{**row, "aux_input": ["0.5"] * 5}]},
        {"instances": [row], "inputs": {}},
    ):
        assert not fits(document, "headline.PredictRequest", wrong)
    tensor = {"name": "aux_input", "datatype": "FP32", "shape": [1, 5], "data": [0.5] * 5}
    assert fits(document, "headline.InferRequest", {"inputs": [tensor]})
    assert not fits(document, "headline.InferRequest", {"inputs": [{**tensor, "shape": [1, 4]}]})
    assert not fits(document, "headline.InferRequest", {"inputs": [{**tensor, "name": "aux"}]})
