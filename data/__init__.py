"""Makes batches from raw data: sources, preparation, order, batches."""
