"""Built-in distillers, one method per file."""
