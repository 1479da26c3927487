"""`report.html`: what a run was and how it went, in one file that needs nothing else."""
