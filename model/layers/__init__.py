"""The layers that the architectures are made of, a file for each idea."""
