"""Classes that are never loaded, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

_CODE = "holds Python code, which is never run; replace it by layers or operations and save the model again"
_ELSEWHERE = "runs a model of another framework"

REFUSED: Mapping[str, str] = {
    "Lambda": f"{_CODE}, or let a plugin replace it (layergraph.plugins.replace_lambda, by the layer's name)",
    "__lambda__": _CODE,
    "TorchModuleWrapper": _CODE,
    "FlaxLayer": _CODE,
    "JaxLayer": _CODE,
    "TFSMLayer": f"{_ELSEWHERE} from a path in the config, which is never opened",
    "KerasLayer": f"{_ELSEWHERE} from a path or URL in the config, which is never opened",
}
