"""From raw data to batches: sources, preparation, order, batches."""
