"""Models: layers, and the architectures made of them.

A model is a Flax NNX module that `architectures.build` builds from flat hyperparameters. It knows
no mesh: the dimensions of its parameters and activations have logical names, which
`layers/sharding.py` describes.
"""
