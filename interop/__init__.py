"""Converts models between our form and Hugging Face's, and writes them in other formats.

A folder contains `config.json` and `model.safetensors` (one file or several), as written by
`save_pretrained`. Each family (`families.py`) has one table of parameter names and one of the
fields of config.json, which serve both directions. `formats/` has the formats of export.py.
"""
