"""The plugin host: hook specifications, the loader and registry.yaml."""
