"""The configuration of a run: its schema, its recipes, and the command lines that change it."""
