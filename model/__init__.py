"""Models: layers, and the architectures made of them.

A model is a Flax NNX module built by `architectures.build`. It knows no mesh: its parameters say
what their dimensions are under the metadata key `AXES`, its activations through
`activation_sharding` (both in `layers/sharding.py`).
"""
