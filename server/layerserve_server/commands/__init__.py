"""The commands `layerserve serve`, `inspect` and `convert`, where the command line finds them."""

from layerserve_server.commands.model_files import convert, inspect
from layerserve_server.commands.serving import serve

__all__ = ["convert", "inspect", "serve"]
