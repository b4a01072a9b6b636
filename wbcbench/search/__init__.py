"""Searches: Optuna proposes parameters, an executor trains, records in the store say what came of it."""
