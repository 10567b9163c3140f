"""What a sigmoid or softmax was applied to, kept on the tensor that it returned, as Keras 2 does (`_keras_logits`).

Any function of that tensor returns another one, which has lost it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

_KEPT = "keras_logits"

#: Which crossentropies take the logits. All do, whatever `from_logits` is, and whichever the function was; those that
#: expect the function do; those that expect it do, unless `from_logits` is set.
ANY, EXPECTED, UNTOLD = "any", "expected", "untold"


@dataclass(frozen=True, slots=True)
class _Kept:
    logits: torch.Tensor
    function: str
    taken_by: str


def keep_logits(outputs: torch.Tensor, logits: torch.Tensor, function: str, taken_by: str) -> torch.Tensor:
    """Returns `outputs`, which hold from now on what a `function` ("sigmoid" or "softmax") got to return them."""
    setattr(outputs, _KEPT, _Kept(logits, function, taken_by))
    return outputs


def logits_of(outputs: torch.Tensor, function: str, from_logits: bool) -> torch.Tensor | None:
    """The logits of `outputs` for a crossentropy that expects `function`; None if it doesn't take any."""
    kept: _Kept | None = getattr(outputs, _KEPT, None)
    if kept is None:
        return None
    if kept.taken_by == ANY or (kept.function == function and not (kept.taken_by == UNTOLD and from_logits)):
        return kept.logits
    return None


def with_logits_of(
    original: torch.Tensor, changed: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Returns `changed` with the logits of `original`, to which `change` is applied.

    Without `change`, `changed` has the values of `original`, in another dtype or detached.
    """
    kept: _Kept | None = getattr(original, _KEPT, None)
    if kept is None or changed is original:
        return changed
    if change is None:
        logits = kept.logits.to(changed.dtype)
        logits = logits if changed.requires_grad else logits.detach()
    else:
        logits = change(kept.logits)
    setattr(changed, _KEPT, replace(kept, logits=logits))
    return changed
