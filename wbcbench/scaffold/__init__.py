"""`wbcbench new`: a plugin to start from, with its test, as one file or as a package."""

from __future__ import annotations

from wbcbench.scaffold.write import Written, check_name, write_file, write_package

__all__ = ["Written", "check_name", "write_file", "write_package"]
