"""The page that explains what a model sees in a picture."""
