"""Reads a command line, a recipe or a `config.json` into a checked configuration, and writes it."""
