"""The configuration of a run: schema, recipes, and the parser of the command line."""
