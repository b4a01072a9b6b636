"""From records to tables, and tables to text. Pure functions."""
