"""Addresses of stores, as `layerserve serve` gets them in place of a path."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from layerserve.registries import mlflow_address

#: Package that implements a scheme for fsspec; empty for those in fsspec itself.
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "file": "",
    "memory": "",
}
#: Module of MLflow, and the package that it comes with.
MLFLOW = {"mlflow": "mlflow-skinny"}
#: Schemes in which a file can be created only if it doesn't exist, so that two servers can't publish the same version.
EXCLUSIVE = frozenset(PACKAGES) - {"hf"}

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)


def is_address(text: str) -> bool:
    """Whether a text is an address rather than a path."""
    return mlflow_address.is_mlflow(text) or _ADDRESS.fullmatch(text) is not None


def scheme_of(address: str) -> str:
    """Returns the part of an address before `://` or `:/`, in lower case; empty if it has none."""
    if mlflow_address.is_mlflow(address):
        return address.partition(":")[0]
    found = _ADDRESS.fullmatch(address)
    return found["scheme"].lower() if found else ""


def expected(address: str) -> str:
    """Returns what is expected of an address that can't be used, as a text; empty if it can be."""
    if mlflow_address.is_mlflow(address):
        try:
            mlflow_address.read_address(address.rstrip("/"))
        except ValueError as error:
            return str(error)
        return ""
    found = _ADDRESS.fullmatch(address)
    if found is None or scheme_of(address) not in PACKAGES:
        known = (*(f"{scheme}://" for scheme in PACKAGES), *mlflow_address.PREFIXES)
        return f"a path, or an address that begins with one of {', '.join(known)}"
    parts = found["rest"].strip("/").split("/")
    if not address.isprintable() or "" in parts or ".." in parts or "." in parts:
        return f"{scheme_of(address)}://BUCKET/FOLDER, without '..', '.' and empty parts"
    return ""


def modules(address: str) -> dict[str, str]:
    """Returns the modules that an address needs, with the packages that have them."""
    if mlflow_address.is_mlflow(address):
        return MLFLOW
    return {name: name for name in ("fsspec", PACKAGES[scheme_of(address)]) if name}


def folder_name(address: str) -> str:
    """Returns a file name for an address, which no other address has."""
    address = address.rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", address).strip("-")[:64]
    return f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def last_part(address: str) -> str:
    """Returns the name of the folder or file at an address, without a revision of hf:// (`NAME@REVISION`)."""
    return PurePosixPath(address.rstrip("/")).name.partition("@")[0]
