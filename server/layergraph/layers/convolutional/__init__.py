"""Convolutional layers. Read `convolution` first; the others are its variations."""
