"""torch's fused recurrent loops, for Keras's weights and masks.

They are many times faster than a loop in Python, and apply if the activations are the standard ones. They don't support
masks: the unmasked timesteps of each row are moved to the front, which gives the same numbers, because later timesteps
don't affect earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from layergraph.layers.rnn.gradients import gru_sequence

#: (outputs of all timesteps, states after the last).
Scanned: TypeAlias = tuple[torch.Tensor, list[torch.Tensor]]

#: A loop over (rows, timesteps, features) from given states.
Loop: TypeAlias = "Callable[[torch.Tensor, Sequence[torch.Tensor]], Scanned]"


def fits(x: torch.Tensor) -> bool:
    """Whether torch's loops support the input: it isn't empty, and its dtype has kernels on the device."""
    return x.numel() > 0 and (x.is_cuda or x.dtype in (torch.float32, torch.float64))


def lstm(
    kernel: torch.Tensor, recurrent_kernel: torch.Tensor, bias: torch.Tensor | None
) -> tuple[Loop, Callable[[torch.Tensor, Sequence[torch.Tensor], torch.Tensor], Scanned]]:
    """LSTM with tanh and sigmoid: a loop over entire rows, and one over the first `lengths` timesteps of each row.

    Keras's gates i, f, c, o are in torch's order; Keras has one bias where torch adds two.
    """
    weights = [kernel.t(), recurrent_kernel.t()]
    if bias is not None:
        weights += [bias, torch.zeros_like(bias)]

    def whole(x: torch.Tensor, states: Sequence[torch.Tensor]) -> Scanned:
        start = tuple(state.unsqueeze(0) for state in states)
        y, h, c = torch.lstm(x, start, weights, bias is not None, 1, 0.0, torch.is_grad_enabled(), False, True)
        return y, [h[0], c[0]]

    def first_steps(x: torch.Tensor, states: Sequence[torch.Tensor], lengths: torch.Tensor) -> Scanned:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
        )
        assert packed.sorted_indices is not None
        assert packed.unsorted_indices is not None
        start = tuple(state[packed.sorted_indices].unsqueeze(0) for state in states)
        data, h, c = torch.lstm(
            packed.data, packed.batch_sizes, start, weights, bias is not None, 1, 0.0, torch.is_grad_enabled(), False
        )
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(
            torch.nn.utils.rnn.PackedSequence(data, *packed[1:]), batch_first=True, total_length=x.shape[1]
        )
        ends = [state[0][packed.unsorted_indices] for state in (h, c)]
        # A row with all timesteps masked keeps its state.
        counts = (lengths > 0)[:, None]
        return y, [torch.where(counts, end, state) for end, state in zip(ends, states, strict=True)]

    return whole, first_steps


def gru(kernel: torch.Tensor, recurrent_kernel: torch.Tensor, bias: torch.Tensor | None) -> Loop:
    """GRU with tanh, sigmoid and `reset_after`. Keras's gates z, r, h are torch's z, r, n, stored as r, z, n.

    With gradients on the CPU, `gru_sequence` replaces torch's loop.
    """

    def reordered(gates: torch.Tensor) -> torch.Tensor:
        z, r, h = gates.chunk(3, -1)
        return torch.cat([r, z, h], -1)

    def whole(x: torch.Tensor, states: Sequence[torch.Tensor]) -> Scanned:
        if not x.is_cuda and torch.is_grad_enabled():
            outputs = gru_sequence(x, states[0], kernel, recurrent_kernel, bias)
            return outputs, [outputs[:, -1]]
        weights = [reordered(kernel).t(), reordered(recurrent_kernel).t()]
        if bias is not None:
            weights += list(reordered(bias).unbind(0))
        start = states[0].unsqueeze(0)
        y, h = torch.gru(x, start, weights, bias is not None, 1, 0.0, torch.is_grad_enabled(), False, True)
        return y, [h[0]]

    return whole


def simple_rnn(
    kernel: torch.Tensor, recurrent_kernel: torch.Tensor, bias: torch.Tensor | None, *, rectified: bool
) -> Loop:
    """Simple recurrent network with tanh, or relu if `rectified`."""
    weights = [kernel.t(), recurrent_kernel.t()]
    if bias is not None:
        weights += [bias, torch.zeros_like(bias)]
    loop = torch.rnn_relu if rectified else torch.rnn_tanh

    def whole(x: torch.Tensor, states: Sequence[torch.Tensor]) -> Scanned:
        start = states[0].unsqueeze(0)
        y, h = loop(x, start, weights, bias is not None, 1, 0.0, torch.is_grad_enabled(), False, True)
        return y, [h[0]]

    return whole


def masked(
    whole: Loop,
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    mask: torch.Tensor,
    first_steps: Callable[[torch.Tensor, Sequence[torch.Tensor], torch.Tensor], Scanned] | None = None,
) -> Scanned:
    """Runs `whole` over the timesteps where `mask` (rows, timesteps) is True: at the others the state stays, and the
    output is that of the timestep before, or 0 if there is none.

    The state after a row's last timestep is taken from the outputs, so layers with further states need `first_steps`.
    """
    rows, steps, features = x.shape
    counted = mask.to(torch.int64).cumsum(1)
    lengths = counted[:, -1]
    # Unmasked timesteps go to the front, all others to an extra place at the end, which is cut off.
    place = torch.where(mask, counted - 1, steps)[:, :, None].expand(-1, -1, features)
    compact = x.new_zeros((rows, steps + 1, features)).scatter(1, place, x)[:, :steps]
    if first_steps is not None:
        outputs, ends = first_steps(compact, states, lengths)
    else:
        outputs, _ = whole(compact, states)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, outputs.shape[2])
        ends = [torch.where((lengths > 0)[:, None], outputs.gather(1, last)[:, 0], states[0])]
    at = (counted - 1).clamp_min(0)[:, :, None].expand(-1, -1, outputs.shape[2])
    return torch.where((counted > 0)[:, :, None], outputs.gather(1, at), 0), ends
