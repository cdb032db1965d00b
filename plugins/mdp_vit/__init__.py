"""Vision Transformers for plugins: loading, features, preprocessing (a library, not a plugin)."""
