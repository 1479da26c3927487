"""Codecs between text, pictures or sound and numbers, for data, tasks and inference."""
