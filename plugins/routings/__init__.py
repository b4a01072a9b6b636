"""Built-in routings, one method per file."""
