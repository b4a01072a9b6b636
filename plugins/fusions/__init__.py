"""Built-in fusions, one method per file."""
