"""The step, the DeepSpeed engine, checkpoints, and the Ray Train workers that run them."""
