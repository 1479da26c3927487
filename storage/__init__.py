"""Object stores (gs://, s3://) and other places for copies: objects, the lock of a writer."""
