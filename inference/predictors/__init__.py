"""One predictor for each kind of answer; `registry.py` says which task has which.

A predictor parses a request, predicts with a model, and renders what the model answered. The
command line, evaluation and the samples of training use the same.
"""
