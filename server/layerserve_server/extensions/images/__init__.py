"""Inputs that take encoded images: JPEG, PNG, WebP, BMP and GIF files, which other processes decode.

Begin with `extension`. `image_input` has the images of a call decoded by the `pool` of processes, which run `worker`.
"""
