"""Training: one loop, its batches, its checkpoints, and how it runs on the hardware."""
