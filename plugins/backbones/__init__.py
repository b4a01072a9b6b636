"""Built-in backbones, one method per file."""
