"""Where aded-bench begins; see ``aded_local.starting``."""

from aded_local.starting import start


def bench() -> None:
    """aded-bench."""
    start("aded_bench.main")
