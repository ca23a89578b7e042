"""Exports go to places that others read from: the Hugging Face hub and object stores."""
