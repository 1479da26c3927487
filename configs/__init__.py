"""The configuration of a run: schema, recipes, and the command-line parser."""
