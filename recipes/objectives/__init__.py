"""A bench of ways to make a CLIP better from few pairs; README.md says what it compares."""
