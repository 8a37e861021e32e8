"""Captions of any number: parts of shards and tables, scored one by one, on one machine or a cluster."""
