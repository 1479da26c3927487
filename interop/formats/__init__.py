"""The formats in which a trained model is exported: one module each (`registry.py`)."""
