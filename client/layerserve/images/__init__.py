"""Encoded images to arrays, as Keras loads them. Needs NumPy and Pillow only.

Begin with `decoder`. `options` says how, `resizing` and `preprocessing` have Keras's formulas.
"""
