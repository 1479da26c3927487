"""Codecs: convert text, pictures and sound to arrays, and text and pictures back."""
