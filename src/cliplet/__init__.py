"""cliplet."""
