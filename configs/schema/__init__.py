"""Declares every field of the configuration: default, unit, range, meaning. One file per section.

Some sections have several kinds, such as the architectures of `model`; each kind is a class. To add
a kind, write a class in the section's file. For data, tokenizers and optimizers, also add the class
to the union at the end of the file. A data source joins a storage and a modality: see
`configs.schema.source`. Recipes, the command line, `--explain` and the checks of
`config.json` need no change.
"""
