"""Converts weights between our models and Hugging Face's: GPT-2, Llama, BERT and ViT.

A folder contains `config.json` and `model.safetensors` (one file or several), as written by
`save_pretrained`. Each family has one table of parameter names, which serves both directions.
"""
