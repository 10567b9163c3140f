"""A headless Chromium of the system. Tests skip where it, or what drives it, isn't installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def chromium() -> str:
    """The program; skips the tests of the module where it is missing."""
    pytest.importorskip("playwright", reason="needs playwright (extra 'dev')")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (Debian's package 'chromium')", allow_module_level=True)
    return program


@contextmanager
def browser(program: str) -> Iterator[Any]:
    """A running browser that reaches nothing but this machine: every name has its address, as after a DNS rebinding."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root in a container there is no sandbox; what it loads is our own page.
        arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * 127.0.0.1"]
        running = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield running
        finally:
            running.close()
