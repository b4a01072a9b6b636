"""Use of trained networks: export, prediction on new cells, explanation, and reports on records."""
