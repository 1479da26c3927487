"""The layers that the architectures use, one file per kind of layer."""
