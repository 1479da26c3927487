"""Meshes, the meaning of logical axes on them, the feeding of batches, and start-up."""
