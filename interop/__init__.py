"""Weights to and from the layouts of Hugging Face: GPT-2, Llama, BERT, ViT.

A folder holds `config.json` and `model.safetensors`, whole or in parts, as `save_pretrained` leaves
them. Each family is a table of names, from which both ways are derived.
"""
