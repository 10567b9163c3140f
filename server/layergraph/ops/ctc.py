"""Connectionist temporal classification (keras.ops.ctc_loss, keras.ops.ctc_decode)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from layergraph.config.options import boolean, integer, one_of, option, optional, positive_int
from layergraph.errors import DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation

#: Maximum number of candidates in a step of beam search.
_MOST = 1_000_000


class _Ctc(Operation):
    keras_module = "keras.src.ops.nn"


class CTCLoss(_Ctc):
    """The loss by row (keras.ops.ctc_loss). `output` are logits (rows, steps, classes).

    Raises DataError for lengths out of range.
    """

    mask_index: int = option(integer, default=0)

    def forward(  # type: ignore[override]
        self,
        context: CallContext,
        w: Weights,
        target: torch.Tensor,
        output: torch.Tensor,
        target_length: Any,
        output_length: Any,
    ) -> torch.Tensor:
        steps, symbols = (torch.as_tensor(n, device=output.device).long() for n in (output_length, target_length))
        if output.is_meta:
            return output.new_empty(output.shape[0], dtype=torch.promote_types(output.dtype, torch.float32))
        logs = torch.log_softmax(output.to(torch.promote_types(output.dtype, torch.float32)), -1)
        _check_rows(steps, output.shape[0], "output_length")
        _check_rows(symbols, output.shape[0], "target_length")
        for given, most, name in ((steps, output.shape[1], "output"), (symbols, target.shape[1], "target")):
            if given.numel() and not 0 <= int(given.min()) <= int(given.max()) <= most:
                raise DataError(f"{name}_length is up to {int(given.max())}, expected from 0 to {most}")
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < output.shape[2]:
            raise DataError(f"a target is out of range for {output.shape[2]} classes")
        return functional.ctc_loss(
            logs.transpose(0, 1), target.long(), steps, symbols, blank=self.mask_index, reduction="none"
        )


class CTCDecode(_Ctc):
    """The classes (paths, rows, steps), padded with -1, and the scores (rows, paths) (keras.ops.ctc_decode)."""

    strategy: str = option(one_of("greedy", "beam_search"), default="greedy")
    beam_width: int = option(positive_int, default=100)
    top_paths: int = option(positive_int, default=1)
    merge_repeated: bool = option(boolean, default=True)
    mask_index: int | None = option(optional(integer), default=0)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, inputs: torch.Tensor, sequence_lengths: Any
    ) -> list[torch.Tensor]:
        x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        if x.is_meta:
            count = 1 if self.strategy == "greedy" else self.top_paths
            rows, steps, _ = x.shape
            return [x.new_empty((count, rows, steps), dtype=torch.int32), x.new_empty((rows, count))]
        lengths = torch.as_tensor(sequence_lengths, device=x.device)
        _check_rows(lengths, x.shape[0], "sequence_lengths")
        blank = x.shape[2] - 1 if self.mask_index is None else self.mask_index % x.shape[2]
        if self.strategy == "greedy":
            return self._greedy(x, lengths, blank)
        if self.beam_width * x.shape[2] > _MOST:
            raise GraphError(f"beam_width {self.beam_width} times {x.shape[2]} classes is more than {_MOST}")
        logs = torch.log_softmax(x, -1).cpu().double().numpy()
        found = [
            _best_paths(row[: max(int(length), 1)], self.beam_width, self.top_paths, blank)
            for row, length in zip(logs, lengths.tolist(), strict=True)
        ]
        paths = torch.full((self.top_paths, x.shape[0], x.shape[1]), -1, dtype=torch.int32)
        scores = torch.full((x.shape[0], self.top_paths), -torch.inf, dtype=x.dtype)
        for i, best in enumerate(found):
            for k, (path, score) in enumerate(best):
                paths[k, i, : len(path)] = torch.tensor(path, dtype=torch.int32)
                scores[i, k] = score
        return [paths.to(x.device), scores.to(x.device)]

    def _greedy(self, x: torch.Tensor, lengths: torch.Tensor, blank: int) -> list[torch.Tensor]:
        scores, classes = x.max(-1)
        steps = torch.arange(x.shape[1], device=x.device)
        beyond = steps >= lengths.unsqueeze(-1)
        classes = torch.where(beyond, blank, classes)
        kept = classes != blank
        if self.merge_repeated:
            kept[:, 1:] &= classes[:, 1:] != classes[:, :-1]
        order = torch.where(kept, steps, x.shape[1]).argsort(dim=-1, stable=True)
        path = torch.where(kept, classes, -1).gather(-1, order)
        total = -scores.masked_fill(beyond, 0).sum(1, keepdim=True)
        return [path.to(torch.int32).unsqueeze(0), total]


def _check_rows(lengths: torch.Tensor, rows: int, name: str) -> None:
    """Raises DataError unless there is a length for each row: constants in a model fix the number of rows."""
    if lengths.shape != (rows,):
        raise DataError(f"{name} has shape {tuple(lengths.shape)}, expected ({rows},), one for each row")


def _best_paths(logs: Any, width: int, count: int, blank: int) -> list[tuple[tuple[int, ...], float]]:
    """The most probable paths of one row (steps, classes), best first, with the logarithms of their probabilities.

    Prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition"): a prefix has
    two scores, for alignments that end in its last class and for those that end in a blank.
    """
    first = np.argsort(-logs[0], kind="stable")[:width].tolist()
    prefixes: list[tuple[int, ...]] = [() if c == blank else (c,) for c in first]
    emitted = np.array([-np.inf if c == blank else logs[0, c] for c in first])
    blanked = np.array([logs[0, c] if c == blank else -np.inf for c in first])
    for step in logs[1:]:
        known = {prefix: i for i, prefix in enumerate(prefixes)}
        last = np.array([prefix[-1] if prefix else blank for prefix in prefixes])
        total = np.logaddexp(emitted, blanked)
        longer = total[:, None] + step
        # A class only repeats in a prefix if there is a blank in between.
        rows = np.arange(len(prefixes))
        longer[rows, last] = blanked + step[last]
        longer[:, blank] = -np.inf
        stays = np.where(last == blank, -np.inf, emitted + step[last])
        for i, prefix in enumerate(prefixes):
            parent = known.get(prefix[:-1]) if prefix else None
            if parent is not None:
                stays[i] = np.logaddexp(stays[i], longer[parent, last[i]])
                longer[parent, last[i]] = -np.inf
        emits = np.concatenate([stays, longer.ravel()])
        blanks = np.concatenate([total + step[blank], np.full(longer.size, -np.inf)])
        scores = np.logaddexp(emits, blanks)
        best = np.argsort(-scores, kind="stable")[:width]
        best = best[scores[best] > -np.inf]
        classes = len(step)
        prefixes = [
            prefixes[k] if k < len(rows) else (*prefixes[(k - len(rows)) // classes], (k - len(rows)) % classes)
            for k in best.tolist()
        ]
        emitted, blanked = emits[best], blanks[best]
    scores = np.logaddexp(emitted, blanked)
    best = np.argsort(-scores, kind="stable")[:count]
    return [(prefixes[k], float(scores[k])) for k in best.tolist()]


OPERATIONS: dict[str, type[Operation]] = {"CTCDecode": CTCDecode, "CTCLoss": CTCLoss}
