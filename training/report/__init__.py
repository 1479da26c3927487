"""`report.html`: what a run was and how it went, in one file that needs nothing else."""

from training.report.machine import environment, versions
from training.report.page import Summary, write_report

__all__ = ["Summary", "environment", "versions", "write_report"]
