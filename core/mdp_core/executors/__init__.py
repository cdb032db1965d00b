"""The executors that come with the core, and the worker processes that they give tasks to."""
