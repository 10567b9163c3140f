"""Retries of the stores' libraries, which last minutes: the server has its own times between attempts.

What isn't an option of a library is changed in it, as far as it has what is changed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

#: Number of attempts for each request.
ATTEMPTS = 2
#: Times for Azure's client, in seconds, and no retries: the first comes after 15 seconds.
_AZURE = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 20}
#: Variables of the libraries, unless they are set. gcsfs asks for the kind of a bucket over gRPC, which takes up to a
#: minute and doesn't go to the address of an emulator. Only zonal buckets need that.
_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "gs": {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"},
    "mlflow": {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    },
}


def prepare(scheme: str) -> None:
    """Called before the filesystem of a scheme is made, or MLflow is imported."""
    scheme = {"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)
    for name, value in _VARIABLES.get(scheme, {}).items():
        os.environ.setdefault(name, value)
    if scheme == "az":
        with suppress(ImportError, AttributeError):
            _prepare_azure()


def _prepare_azure() -> None:
    import adlfs.spec

    client = adlfs.spec.AIOBlobServiceClient
    if hasattr(client, "of_layerserve"):
        return

    class Client(client):  # type: ignore[misc, valid-type]
        of_layerserve = True

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**_AZURE, **options})

    adlfs.spec.AIOBlobServiceClient = Client


def limit(files: Any) -> None:
    """Called with the filesystem."""
    if hasattr(files, "retries"):
        files.retries = ATTEMPTS
    # gcsfs has read that number when it was imported.
    request: Callable[..., Any] | None = getattr(getattr(type(files), "_request", None), "__wrapped__", None)
    if request is not None:
        with suppress(ImportError, AttributeError):
            from gcsfs.retry import retry_request

            files._request = partial(retry_request(retries=ATTEMPTS)(request), files)
