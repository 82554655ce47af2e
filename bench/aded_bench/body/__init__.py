"""A small model in a body of realistic size."""
