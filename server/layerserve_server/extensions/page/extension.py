"""What the extension adds: a page for browsers at /ui."""

from __future__ import annotations

import logging

from layerserve_server.extensions.extension import Core, Extension, Part, Paths, Web
from layerserve_server.extensions.page.settings import PageSettings

logger = logging.getLogger(__name__)

#: Services of other extensions, which the server may be without.
OPTIONAL = ("SweepService", "CheckpointService", "ExplanationService")


def _main(core: Core) -> Part:
    if not PageSettings.of(core.settings).ui:
        return Part()

    def http(web: Web) -> Paths:
        # Imported here, since its packages may be missing.
        from layerserve_server.extensions.page.served import Served
        from layerserve_server.extensions.page.serving import Page

        without = [name for name in OPTIONAL if f"layerserve.v1.{name}" not in core.services()]
        page = Page(Served(core, web.grpc_port), web.hosts, web.reader, without)
        return Paths(routes=page.routes(), plain=page.plain())

    return Part(http=http, start=lambda: logger.info("the page for browsers is at /ui on the port for HTTP"))


PAGE = Extension(name="page", settings=PageSettings, main=_main)
