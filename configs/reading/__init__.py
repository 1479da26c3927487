"""Reads configurations from recipes, command lines and `config.json`; checks and writes them."""
