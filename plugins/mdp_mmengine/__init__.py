"""Training through MMEngine, shared by the MMDet and MMSeg plugins: exact resume, typed schedule, safetensors models."""
