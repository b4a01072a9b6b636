"""The built-in components: a folder for each kind, and a file for each component, as in anyone's plugin folder."""
