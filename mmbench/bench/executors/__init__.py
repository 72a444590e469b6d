"""Where a run happens, and nothing else."""
