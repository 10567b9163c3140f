"""The extensions that are installed, and what they add to settings and rights.

To take one of this package away, delete its folder, its folder of tests, and its line in `OWN`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from layerserve.cli.variables import PREFIX

from layerserve_server.extensions.extension import Extension
from layerserve_server.settings.settings import Settings as CoreSettings

if TYPE_CHECKING:
    from layerserve_server.repository.model_settings import ModelSettings

#: Group of the entry points of other packages, each an `Extension`.
GROUP = "layerserve.extensions"
#: The extensions of this package. Imported when their settings are read; what they make imports the rest.
OWN = {
    "checkpoints": "layerserve_server.extensions.checkpoints.extension:CHECKPOINTS",
    "cloud_paths": "layerserve_server.extensions.cloud_paths.extension:CLOUD_PATHS",
    "cluster": "layerserve_server.extensions.cluster.extension:CLUSTER",
    "estimates": "layerserve_server.extensions.estimates.extension:ESTIMATES",
    "explanations": "layerserve_server.extensions.explanations.extension:EXPLANATIONS",
    "images": "layerserve_server.extensions.images.extension:IMAGES",
    "mirroring": "layerserve_server.extensions.mirroring.extension:MIRRORING",
    "model_files": "layerserve_server.extensions.model_files.extension:MODEL_FILES",
    "online": "layerserve_server.extensions.online.extension:ONLINE",
    "page": "layerserve_server.extensions.page.extension:PAGE",
    "reflection": "layerserve_server.extensions.reflection.extension:REFLECTION",
    "scoring": "layerserve_server.extensions.scoring.extension:SCORING",
    "sequences": "layerserve_server.extensions.sequences.extension:SEQUENCES",
    "stores": "layerserve_server.extensions.stores.extension:STORES",
    "sweeps": "layerserve_server.extensions.sweeps.extension:SWEEPS",
    "tensorflow_serving": "layerserve_server.extensions.tensorflow_serving.extension:TENSORFLOW_SERVING",
    "tokens_oidc": "layerserve_server.extensions.tokens_oidc.extension:TOKENS_OIDC",
    "tracing": "layerserve_server.extensions.tracing.extension:TRACING",
    "trackers": "layerserve_server.extensions.trackers.extension:TRACKERS",
    "triton": "layerserve_server.extensions.triton.extension:TRITON",
}


def _load() -> tuple[Extension, ...]:
    own = [EntryPoint(name, where, GROUP) for name, where in OWN.items()]
    return tuple(point.load() for point in (*own, *entry_points(group=GROUP)))


EXTENSIONS = _load()
#: The kinds of verifiers of tokens.
VERIFIERS = tuple(kind for one in EXTENSIONS for kind in one.verifiers)
#: The class of all settings: the core's, then those of the extensions.
Settings: type[CoreSettings] = type(
    "Settings",
    (*(one.settings for one in EXTENSIONS if one.settings is not None), CoreSettings),
    {"__doc__": CoreSettings.__doc__},
)


@cache
def model_settings() -> type[ModelSettings]:
    """Returns the class of all settings of a model: the core's, then those of the extensions."""
    from layerserve_server.repository.model_settings import ModelSettings

    more = [one.model_settings() for one in EXTENSIONS if one.model_settings is not None]
    return type("ModelSettings", (*more, ModelSettings), {"__doc__": ModelSettings.__doc__})


def variables() -> set[str]:
    """Returns the environment variables of all settings. Called by the client's commands."""
    return {PREFIX + name.upper() for name in Settings.model_fields}
