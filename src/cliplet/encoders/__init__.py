"""Encoders: images and texts to unit vectors."""
