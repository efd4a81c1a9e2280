"""Training: a loop for each stage, and all that they need. It needs the extra `train`."""
