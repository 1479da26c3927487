"""The bodies of requests and answers, as pydantic models, and how they become requests to a
model."""
