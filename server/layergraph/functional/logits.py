"""What a sigmoid or softmax was applied to, kept on the tensor that it returned, as Keras 2 does (`_keras_logits`).

Any function of that tensor returns another one, which has lost it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_LOGITS = "keras_logits"


def keep_logits(outputs: torch.Tensor, logits: torch.Tensor, only_for: str = "") -> torch.Tensor:
    """Returns `outputs`, a sigmoid or softmax of `logits`, which holds them from now on.

    `only_for` is "sigmoid" or "softmax" if only crossentropies of that function are to find them; "" for all.
    """
    setattr(outputs, _LOGITS, (logits, only_for))
    return outputs


def logits_of(outputs: torch.Tensor, function: str) -> torch.Tensor | None:
    """What gave `outputs` by a sigmoid or softmax; None if unknown. `function` is what the crossentropy expects."""
    logits, only_for = getattr(outputs, _LOGITS, (None, ""))
    return logits if only_for in ("", function) else None


def with_logits_of(
    original: torch.Tensor, changed: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Returns `changed` with the logits of `original`, to which `change` is applied.

    Without `change`, `changed` has the values of `original`, in another dtype or detached.
    """
    logits, only_for = getattr(original, _LOGITS, (None, ""))
    if logits is None or changed is original:
        return changed
    if change is not None:
        return keep_logits(changed, change(logits), only_for)
    logits = logits.to(changed.dtype)
    return keep_logits(changed, logits if changed.requires_grad else logits.detach(), only_for)
