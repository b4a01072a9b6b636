"""Several runs and searches as one study, from one file into one store."""
