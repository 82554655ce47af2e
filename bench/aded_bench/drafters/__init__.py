"""Published ways to draft, rebuilt for measuring, beside ours: on a real model's logits, in virtual time."""
