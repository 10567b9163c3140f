"""The REST form in /openapi.json: its paths, and schemas of the inputs and outputs of each model."""

from __future__ import annotations

from layerserve_server.services.rest.openapi import ERRORS
from openapi import ROW, fits, headline_document


def test_requests_and_replies_of_a_model_fit_its_schemas_and_others_do_not(tmp_path):
    with headline_document(tmp_path) as (document, call):
        assert document["paths"]["/v1/models/headline:predict"]["post"]["responses"].keys() == {"200", *ERRORS}
        reply = call("POST", "/v1/models/headline:predict", {"instances": [ROW]}).json
    assert fits(document, "headline.PredictReply", reply)
    (outputs,) = reply["predictions"]
    assert len(outputs) == 2
    assert not fits(document, "headline.PredictReply", {"predictions": [dict(list(outputs.items())[:1])]})
    assert not fits(document, "headline.PredictReply", {"error": "text"})
    assert fits(document, "headline.PredictRequest", {"instances": [ROW]})
    assert fits(document, "headline.PredictRequest", {"inputs": {name: [value] for name, value in ROW.items()}})
    for wrong in (
        {},
        {"instances": []},
        {"instances": [{"main_input": ROW["main_input"]}]},
        {"instances": [{**ROW, "aux_input": [0.5] * 4}]},
        {"instances": [{**ROW, "aux_input": ["0.5"] * 5}]},
        {"instances": [ROW], "inputs": {}},
    ):
        assert not fits(document, "headline.PredictRequest", wrong)
