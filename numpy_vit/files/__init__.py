"""Files: safetensors, the converted weights file, `load`, seeded models."""
