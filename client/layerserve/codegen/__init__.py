"""Code for a served model: a typed class, as source text."""

from layerserve.codegen.module import module_source

__all__ = ["module_source"]
