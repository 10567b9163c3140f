"""Preprocessing layers: `lookup`, `hashes`, `categorical` and `text_vectorization` for text and categories, `images`,
`image_contrast` and `augmentation` for images, `audio`, and `pipeline`, a sequence of them.
"""
