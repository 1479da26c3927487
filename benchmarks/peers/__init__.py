"""PyTorch versions of the benchmarked models, in idiomatic PyTorch.

`benchmarks/sides.py` compares Triform's models with these. A model is made of a `row`, a row of a
benchmark's table with the sizes of the model (`benchmarks/rows.py`); `inputs` names the arrays of a
batch that it reads, and `loss(logits, batch)` returns the mean loss. The children of a module have
the names of Triform's, so that `loading.load` finds their initial weights.
"""
