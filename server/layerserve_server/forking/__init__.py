"""Processes that have imported what a job needs and fork a child for each, which takes milliseconds."""
