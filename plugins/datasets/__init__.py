"""Built-in datasets, one method per file."""
