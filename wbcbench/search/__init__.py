"""Searches: Optuna proposes parameters, an executor trains, records in the store say what came of it."""

from wbcbench.callable_module import make_callable

make_callable(__name__)
