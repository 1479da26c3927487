"""The data pipeline: reads raw data, prepares records once, and makes batches of them."""
