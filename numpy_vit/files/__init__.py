"""Files: safetensors, and the converted weights file."""
