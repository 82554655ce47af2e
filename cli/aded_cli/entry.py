"""Where the installed programs begin; see ``aded_local.starting``."""

from aded_local.starting import start


def chat() -> None:
    """aded-chat."""
    start("aded_cli.chat")


def store() -> None:
    """aded-store."""
    start("aded_cli.store")


def doctor() -> None:
    """aded-doctor."""
    start("aded_cli.doctor")


def serve() -> None:
    """aded-serve."""
    start("aded_cli.serve.program")


def models() -> None:
    """aded-models."""
    start("aded_cli.models")
