"""Which precision a run computes in."""

from __future__ import annotations

from pathlib import Path

from layerserve_server.errors import InvalidRequestError

#: Flags of processors with units for bfloat16: of x86 and of ARM.
_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
CPU_INFO = Path("/proc/cpuinfo")


def has_bfloat16(device: str) -> bool:
    """Whether a torch device has units for bfloat16. GPUs that torch supports have them."""
    if device != "cpu":
        return True
    try:
        lines = CPU_INFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not _FLAGS.isdisjoint(flags.partition(":")[2].split())


def policy_of(precision: str | None, device: str) -> str | None:
    """Returns the dtype policy for a run's option; None for the layers' own.

    Raises InvalidRequestError for bfloat16 on a device without units for it: it would only be slower.
    """
    if precision == "auto":
        return "mixed_bfloat16" if has_bfloat16(device) else "float32"
    if precision == "mixed_bfloat16" and not has_bfloat16(device):
        raise InvalidRequestError(
            "precision: got 'mixed_bfloat16', but the server's processor has no units for bfloat16, expected 'float32' "
            "or 'auto'"
        )
    return precision
