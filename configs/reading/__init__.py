"""From a command line, a recipe or a `config.json` to a checked configuration, and back to text."""
