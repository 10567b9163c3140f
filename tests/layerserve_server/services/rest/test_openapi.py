"""/openapi.json: valid, and of each model's inputs."""

from __future__ import annotations

from layerserve_server.services.rest.openapi import ERRORS
from openapi import fits, headline_document
from openapi_spec_validator import validate
from tokens import write_tokens


def test_the_document_is_valid_and_lists_the_models_that_the_caller_may_read(serve, put, tmp_path):
    put("other-one")
    tokens = write_tokens(tmp_path / "tokens.toml")
    _, call = serve(tokens=tokens)
    assert call("GET", "/openapi.json").status == 401
    document = call("GET", "/openapi.json", Authorization="Bearer all").json
    validate(document)
    assert {"/v2/models/double/infer", "/v2/models/other-one/infer"} <= document["paths"].keys()
    document = call("GET", "/openapi.json", Authorization="Bearer other-models").json
    validate(document)
    assert "/v2/models/double/infer" not in document["paths"]
    assert "/v2/models/other-one/infer" in document["paths"]


def test_requests_of_a_model_fit_its_schema_and_others_do_not(tmp_path):
    with headline_document(tmp_path) as (document, _):
        assert document["paths"]["/v2/models/headline/infer"]["post"]["responses"].keys() == {"200", *ERRORS}
    aux = {"name": "aux_input", "datatype": "FP32", "shape": [2, 5], "data": [0.5] * 10}
    words = {"name": "main_input", "datatype": "INT32", "shape": [2, 12], "data": [[1] * 12, [2] * 12]}
    outputs = [{"name": "main_output"}, {"name": "aux_output", "parameters": {"classification": 2}}]
    request = {"inputs": [words, aux]}
    assert fits(document, "headline.InferRequest", request)
    assert fits(document, "headline.InferRequest", {**request, "outputs": outputs, "parameters": {"timeout": 5}})
    for change in (
        {"name": "words"},
        {"shape": [2, 11]},
        {"data": None},
        {"data": [[1] * 11]},
        {"data": [[1.5] * 12]},
        {"data": [[2**31] * 12]},
        {"datatype": "FP32"},
        {"parameters": {"binary_data_size": 96}},
    ):
        assert not fits(document, "headline.InferRequest", {"inputs": [{**words, **change}, aux]})
    assert not fits(document, "headline.InferRequest", {"inputs": [words]})
    assert not fits(document, "headline.InferRequest", {**request, "outputs": outputs[:1] * 2})
