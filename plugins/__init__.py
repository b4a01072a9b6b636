"""The built-in components: one folder per kind and one file per component, as in any plugin folder."""
