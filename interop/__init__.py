"""Converts weights from and to Hugging Face's layouts: GPT-2, Llama, BERT, ViT.

A folder contains `config.json` and `model.safetensors`, in one file or several, as written by
`save_pretrained`. Each family has one table of names, used in both directions.
"""
