"""Declares every field of the configuration: default, unit, range, meaning. One file per section.

To add a kind of a section (an architecture, a source, ...), write a class in the section's file.
For data, tokenizers and optimizers, also add its name to the union at the end of the file. Recipes,
the command line, `--explain` and the checks of `config.json` then know it.
"""
