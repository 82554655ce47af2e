"""A conversation to token ids and back: the model's template, in a sandbox, and whole characters."""
