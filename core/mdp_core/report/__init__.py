"""Pictures of a run: overlays and contact sheets."""
