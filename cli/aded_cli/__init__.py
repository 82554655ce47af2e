"""The terminal chat: what a person types, and what they see. Imports nothing heavy before it is needed."""
