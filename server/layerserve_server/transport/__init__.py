"""Bytes in, bytes out: how calls come to the handlers, whatever carries them."""
