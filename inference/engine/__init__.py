"""The engine that generates texts by continuous batching: requests share a batch of slots, and each
one can join or leave the batch at any step."""
