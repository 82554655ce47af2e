"""The commands of aded-store, one module each; what they share is in ``shared`` and ``corpus``."""
