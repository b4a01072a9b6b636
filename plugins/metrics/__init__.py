"""Built-in metrics beyond those that every record has, one per file."""
