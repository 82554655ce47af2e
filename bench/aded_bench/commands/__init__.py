"""The commands of `aded-bench`, one a module; each holds a click command called ``command``."""
