"""Device meshes, sharding by logical axes, global batches, and several processes as one run."""
