"""What computes windows: batches, the rate of the work, warm-up."""
