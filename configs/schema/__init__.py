"""Every field of the configuration once: default, unit, range, meaning. A file a section.

A new kind of a section (an architecture, a source, ...) is a class in the section's file; of data,
tokenizers and optimizers its name in the union at the file's end too. Recipes, the command line,
`--explain` and the checks of `config.json` follow from that.
"""
