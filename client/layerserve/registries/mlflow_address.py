"""Addresses of models in MLflow, as MLflow writes them: `models:/NAME@ALIAS`, `runs:/RUN/PATH`."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What addresses begin with.
PREFIXES = ("models:/", "runs:/")
#: The forms of addresses, for error texts.
FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH"
#: Variables with the address of MLflow. Without one, its library would make a database in the working directory.
URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
#: In place of an alias: the newest version. MLflow doesn't let an alias have this name.
LATEST = "latest"

#: A model that was logged, by its id.
_LOGGED = re.compile(r"models:/(?P<name>m-[0-9a-f]{8,64})")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)[@/](?P<choice>[^/@:]+)")
_OF_RUN = re.compile(r"runs:/(?P<run>[^/@:]+)/(?P<path>[^@:]+)")
_PASSWORD = re.compile(r"//[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class MlflowAddress:
    """What an address names. `name` is that of a registered model, or else of what was logged.

    A registered model has a `version`, or an `alias` instead, which may move. What a run has logged has its id, `run`.
    """

    text: str
    name: str
    version: int = 0
    alias: str = ""
    run: str = ""


def is_mlflow(text: str) -> bool:
    """Whether a text may be such an address."""
    return text.startswith(PREFIXES)


def read_address(text: str) -> MlflowAddress:
    """Reads an address. `models:/NAME/ALIAS` is one, too. Raises ValueError with what is expected."""
    if text.isprintable() and not {"", ".", ".."} & set(text.partition(":/")[2].split("/")):
        if found := _LOGGED.fullmatch(text):
            return MlflowAddress(text, found["name"])
        if found := _REGISTERED.fullmatch(text):
            choice = found["choice"]
            if choice.isascii() and choice.isdecimal():
                if 0 < int(choice) < 10**18:
                    return MlflowAddress(text, found["name"], version=int(choice))
            else:
                return MlflowAddress(text, found["name"], alias=choice)
        if found := _OF_RUN.fullmatch(text):
            return MlflowAddress(text, found["path"].rpartition("/")[2], run=found["run"])
    raise ValueError(f"{FORMS}, without empty parts, '.' and '..'")


def error_text(error: Exception) -> str:
    """Returns the text of an error of MLflow's library, in one line: without the password that an address may have."""
    return _PASSWORD.sub("//", " ".join(str(error).split())) or type(error).__name__
