"""Tracking of runs with MLflow."""
