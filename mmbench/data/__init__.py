"""What every part may know: tasks, samples, missingness and batches."""
