"""The layers that architectures are made of, one file per kind of layer."""
