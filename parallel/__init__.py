"""Meshes of devices, logical axes on them, global batches, and start-up."""
