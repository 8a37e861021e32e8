"""The packaged model's recipe: what only this model needs. See README.md; run it with ``cliplet distill``."""
