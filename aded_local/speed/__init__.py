"""How much to draft: what passes cost on this machine, and what that allows."""
