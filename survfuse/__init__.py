"""Survival prediction from a slide, bulk expression and clinical variables, as one container job."""

__version__ = "0.1.0"
