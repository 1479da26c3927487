"""Pydantic models of the bodies of requests and answers; they parse and check requests."""
