"""Pixels to tile features."""
