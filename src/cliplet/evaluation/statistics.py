"""The former home of :mod:`cliplet.statistics.resampling`, kept for code that imports from here."""

from cliplet.statistics.resampling import *  # noqa: F403
