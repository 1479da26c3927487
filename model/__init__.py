"""Models: layers, and the architectures that combine them.

A model is a Flax NNX module. `architectures.build` creates it from keyword arguments. A model does
not depend on a device mesh: the dimensions of its parameters and activations have logical names
(see `layers/sharding.py`).
"""
