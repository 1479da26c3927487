"""Compiled functions of a model in files that run with JAX, or with IREE, without this code."""
