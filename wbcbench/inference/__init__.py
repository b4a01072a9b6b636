"""A trained network on cells that it has never seen: rebuilt from its record, fed from files, and explained."""
