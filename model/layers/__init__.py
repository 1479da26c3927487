"""The layers every architecture is made of: one file per idea, each free of mesh code."""
