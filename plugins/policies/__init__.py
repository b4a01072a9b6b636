"""Built-in policies, one method per file."""
