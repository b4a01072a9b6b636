"""`wbcbench check`: the contract tests of a component, run for its author and told in plain words."""

from __future__ import annotations

from wbcbench.checking.run import check_component
from wbcbench.checking.subjects import find_subjects
from wbcbench.checking.verdict import Findings, Verdict

__all__ = ["Findings", "Verdict", "check_component", "find_subjects"]
