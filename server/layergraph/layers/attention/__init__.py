"""Attention layers. Read `scores`, then `attention` (dot-product and additive), then `multi_head`."""
