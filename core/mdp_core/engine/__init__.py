"""The engine: plans the steps of a recipe, finds them in the store or has them done, and keeps the record of the run."""
