"""A domain of one's own from few pairs; README.md says how to lay out the data."""
