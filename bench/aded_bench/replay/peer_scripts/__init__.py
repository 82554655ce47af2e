"""What runs in a peer's own interpreter, never in ours: the standard library, NumPy and the peer, nothing else.

``serve.py NAME`` speaks the protocol described there; ``NAME.py`` beside it wraps one peer.
"""
