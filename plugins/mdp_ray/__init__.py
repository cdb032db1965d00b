"""Executor ``ray``: shards on the machines of a Ray cluster, trainings through Ray Train."""
