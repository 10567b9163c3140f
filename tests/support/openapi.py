"""The document /openapi.json of the guide's model with two inputs and two outputs, and its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
from http_calls import Http
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo import headline
from openapi_spec_validator import validate

#: A row of the model.
ROW = {"main_input": [1] * 12, "aux_input": [0.5] * 5}


@contextmanager
def headline_document(folder: Path) -> Iterator[tuple[Any, Http]]:
    """The document of a server of the model "headline", and a connection to it."""
    headline.build(words=12, vocabulary=20, width=4, lstm_units=3, units=4).save(folder / "headline.keras")
    settings = Settings(
        path=folder, host="127.0.0.1", grpc_port=0, http_port=0, metrics_port=-1, drain_seconds=0, warm_training=False
    )
    with App(settings) as app:
        call = Http(app.http_port)
        document = call("GET", "/openapi.json").json
        validate(document)
        yield document, call
        call.close()


def fits(document: Any, name: str, value: object) -> bool:
    """Whether a value fits a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema.Draft202012Validator(schema).is_valid(value)
