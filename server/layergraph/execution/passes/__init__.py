"""Rewrites of a plan's steps that keep its results.

Way in and out: each has a function from steps to steps, which `program.inference_program` calls in order. Read
`fusion` first. Training executes no pass but `pool_before_relu`.
"""
