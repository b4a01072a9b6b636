"""What is wrong with an installation, a machine or a store, and what mends it. Changes nothing."""

from wbcbench.doctor.examination import Finding, Findings, examine

__all__ = ["Finding", "Findings", "examine"]
