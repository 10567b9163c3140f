"""Which precision a run computes in depends on its option and on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training import precision
from layerserve_server.training.precision import policy_of

WITH = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n"
WITHOUT = "processor\t: 0\nflags\t\t: fpu avx512f xbf16 sse\n"
ARM = "processor : 0\nFeatures : fp asimd bf16\n"


@pytest.mark.parametrize(("text", "has"), [(WITH, True), (WITHOUT, False), (ARM, True), ("", False), (None, False)])
def test_units_are_found_by_the_flags(
    text: str | None, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert policy_of("auto", "cpu") == ("mixed_bfloat16" if has else "float32")
    assert policy_of("auto", "cuda") == "mixed_bfloat16"
    assert (policy_of(None, "cpu"), policy_of("float32", "cpu")) == (None, "float32")
    if has:
        assert policy_of("mixed_bfloat16", "cpu") == "mixed_bfloat16"
    else:
        with pytest.raises(InvalidRequestError, match="has no units for bfloat16, expected 'float32' or 'auto'"):
            policy_of("mixed_bfloat16", "cpu")
