"""Makes batches of raw data: sources, preparation, order, batches."""
