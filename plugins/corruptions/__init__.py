"""Built-in corruptions, one per file."""
