"""Answers requests with trained models: completes, fills in, translates, transcribes,
classifies."""
