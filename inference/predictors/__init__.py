"""Predictors, one for each kind of answer. `registry.py` maps each task to its predictor.

A predictor parses a request, runs the model, and renders its answers. The command line, evaluation
and the samples during training use the same predictors.
"""
