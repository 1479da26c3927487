"""Models: layers, and architectures made of layers.

A model is a Flax NNX module that `architectures.build` builds from flat hyperparameters. It does
not depend on a device mesh: the dimensions of its parameters and activations have logical names
(see `layers/sharding.py`).
"""
