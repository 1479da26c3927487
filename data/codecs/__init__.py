"""Codecs: convert text, images and audio to arrays, and text and images back."""
