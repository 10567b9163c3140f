"""Loops over timesteps as one operation of a recorded graph, which runs for any number of timesteps.

The loops of `cells` are Python's: a recording would repeat the timestep as often as the recorded sequence is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

#: (inputs of one timestep, states) -> states after it, of which the first is the output.
OneStep: TypeAlias = "Callable[[torch.Tensor, Sequence[torch.Tensor]], list[torch.Tensor]]"

#: (inputs of one timestep, joined states) -> (output, joined states).
_Joined: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]"


def recorded_loop(
    take: OneStep,
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    sizes: Sequence[int],
    axis: int = 1,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the outputs (rows, timesteps, ...) for x (rows, timesteps, ...), and the final states.

    At timesteps where `mask` (rows, timesteps) is False, the states stay and the last output is repeated. `sizes` are
    the states' lengths on `axis`, on which they are joined.
    """
    lengths = list(sizes)

    def joined(one: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        after = take(one, torch.split(state, lengths, axis))
        return after[0], torch.cat(after, axis)

    state = torch.cat(list(states), axis)
    keeps = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    keeps = keeps.t().reshape(x.shape[1], x.shape[0], *[1] * (state.ndim - 1))
    loop = _script_loop if torch._C._is_tracing() else _scan
    # The first output is zeros, as nothing may have been computed before the first unmasked timestep.
    outputs, end = loop(joined, x.transpose(0, 1), keeps, state, torch.zeros_like(states[0]))
    return outputs.transpose(0, 1), list(torch.split(end, lengths, axis))


def _scan(
    take: _Joined, xs: torch.Tensor, keeps: torch.Tensor, state: torch.Tensor, output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loop as torch.export's operation `scan`; all arguments but the states start with the timesteps."""
    from torch._higher_order_ops.scan import scan

    def combine(carry: list[torch.Tensor], now: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        (state, output), (one, keep) = carry, now
        after, new = take(one, state)
        output = torch.where(keep, after, output)
        # A result must not be the same tensor as a state.
        return [torch.where(keep, new, state), output], output.clone()

    found: Any = scan(combine, [state, output], [xs, keeps])
    (end, _), outputs = found
    return outputs, end


def _script_loop(
    take: _Joined, xs: torch.Tensor, keeps: torch.Tensor, state: torch.Tensor, output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loop as TorchScript's `prim::Loop`, whose body is a recording of one timestep.

    Between the timesteps bfloat16 is float32: ONNX Runtime has no sequences of bfloat16.
    """
    kept = state.dtype
    wide = torch.float32 if kept is torch.bfloat16 else kept

    def widened(one: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        after, new = take(one.to(kept), state.to(kept))
        return after.to(wide), new.to(wide)

    with _paused_tracing():
        examples = tuple(torch.zeros(value.shape, dtype=wide) for value in (xs[0], state))
        step: Any = torch.jit.trace(
            take if wide is kept else widened,
            examples,
            check_trace=False,  # type: ignore[no-untyped-call]
        )
        loop: Any = torch.jit.script(_loop_over(step))
    outputs, end = loop(xs.to(wide), keeps, state.to(wide), output.to(wide))
    return outputs.to(kept), end.to(kept)


def _loop_over(step: Any) -> Any:
    def loop(
        xs: torch.Tensor, keeps: torch.Tensor, state: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: list[torch.Tensor] = []
        for t in range(xs.size(0)):
            after, new = step(xs[t], state)
            output = torch.where(keeps[t], after, output)
            state = torch.where(keeps[t], new, state)
            outputs.append(output)
        return torch.stack(outputs, 0), state

    return loop


@contextmanager
def _paused_tracing() -> Iterator[None]:
    """What happens in the block isn't part of the recording, and may be recorded on its own."""
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]
