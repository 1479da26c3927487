"""The engine that writes texts: requests of any length share a batch of slots, and join and leave
it at any step."""
