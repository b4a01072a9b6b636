"""Immutable records: schema, atomic store, verification."""
