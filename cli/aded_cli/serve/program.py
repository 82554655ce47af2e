"""aded-serve on the command line: what is asked for, the socket, signals, and how it ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from aded_local.errors import ModelNotFoundError, OptionError
from aded_models import find, names_hub

from .. import display
from ..command_line import engine_of, model_of
from ..options import Whole, engine_options, help_for_missing
from ..program import CONTEXT, OneLine

if TYPE_CHECKING:
    from aded_local.api import LocalADED

PROGRAM: Final = "aded-serve"

KEY_VARIABLE: Final = "ADED_API_KEY"

MOST_QUEUED: Final = 64
"""Requests that may wait where --queue says nothing. Chosen: a client gives up after some minutes anyway."""

MEMORY_SHARE: Final = 0.25
"""Of the memory that is free at the start, what copies of sessions may take where --session-memory says nothing: the
same share that the engine allows for one copy."""

MISSING: Final = "aded-serve needs its packages: pip install 'aded-local[serve]'"


class _Command(OneLine):
    program = PROGRAM


@click.command(cls=_Command, context_settings=CONTEXT)
@engine_options
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to listen on.")
@click.option(
    "--port",
    type=Whole(0, largest=65535),
    default=8080,
    show_default=True,
    metavar="PORT",
    help="Port to listen on (0: any that is free).",
)
@click.option(
    "--api-key",
    envvar=KEY_VARIABLE,
    metavar="KEY",
    help=f"What clients must send as bearer token; better set {KEY_VARIABLE}, since others see command lines."
    " Without one it listens on loopback only.",
)
@click.option(
    "--queue",
    "most_waiting",
    type=Whole(0, largest=100_000),
    default=MOST_QUEUED,
    show_default=True,
    metavar="N",
    help="Requests that may wait; more are refused with 429.",
)
@click.option(
    "--session-memory",
    "session_mebibytes",
    type=Whole(0),
    metavar="MIB",
    help="Memory for the conversations that are not answered right now (default: a quarter of what is free).",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Answer pages of this origin in a browser, such as http://localhost:3000. May be repeated.",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Keep what is said on disk as aded-chat does, and draft from it at later starts.",
)
@click.option(
    "--rpc",
    metavar="HOST:PORT,…",
    help="Put layers on these RPC servers of llama.cpp, where its build has them.",
)
def main(**given: Any) -> int:
    """Answer OpenAI's HTTP interface with a GGUF model, faster where drafts pay: /v1/chat/completions,
    /v1/completions, /v1/embeddings, /v1/models, and /health, /metrics, /openapi.json.

    MODEL is as for aded-chat. Clients take turns. Ctrl-C and SIGTERM let the answer that is being written end.
    """
    model, engine = _here(model_of(given)), engine_of(given)
    key = given["api_key"] or None
    listening = _bound(given["host"], given["port"], key)
    with contextlib.closing(listening):
        try:
            from .running import Plan, serve
        except ImportError as error:
            raise OptionError(f"{MISSING} ({error.name} is not there)") from None
        opening = _opening(model, {**engine, "memory": given["memory"]}, given["rpc"])
        plan = Plan(
            open_model=opening,
            key=key,
            origins=given["origins"],
            most_waiting=given["most_waiting"],
            most_bytes=_most_bytes(given["session_mebibytes"]),
            drafts=given["draft"] != "off",
        )
        failure = serve(plan, listening, display.note)
    if failure is None:
        return 0
    if isinstance(failure, ModelNotFoundError) and model is not None:
        raise ModelNotFoundError(f"{failure}{help_for_missing(model)}") from failure
    raise failure


def _here(model: str | None) -> str | None:
    """The model; one of the Hugging Face Hub as its file, which is downloaded before anybody is promised an answer."""
    if model is None or not names_hub(model):
        return model
    with display.loading(f"looking for {model}", quiet=False) as say:
        return str(find(model, say).path)


def _bound(host: str, port: int, key: str | None) -> socket.socket:
    """A socket that listens.

    Raises:
        click.UsageError: the address cannot be had, or is beyond loopback and no key is set.
    """
    from .loopback import is_loopback

    try:
        if key is None and not is_loopback(host):
            raise click.UsageError(
                f"--host {host} can be reached from other machines: set {KEY_VARIABLE}, or everybody is answered"
            )
        kind, _, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small packets at once only where the protocol is named; else each answer waits 40 ms.
        listening = socket.socket(kind, socket.SOCK_STREAM, protocol)
        if os.name == "posix":  # elsewhere it would let a second server take the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(socket.SOMAXCONN)
        return listening
    except OSError as error:
        why = error.strerror or error
        raise click.UsageError(
            f"cannot listen on {host} port {port}: {why}; choose another with --port"
        ) from None


def _most_bytes(mebibytes: int | None) -> int:
    if mebibytes is not None:
        return mebibytes << 20
    import psutil

    return int(MEMORY_SHARE * psutil.virtual_memory().available)


def _opening(
    model: str | None, engine: dict[str, Any], rpc: str | None
) -> Callable[[Callable[[str], None]], LocalADED]:
    """What loads the model, in the thread that will answer."""

    def open_model(say: Callable[[str], None]) -> LocalADED:
        from aded_local import LocalADED

        if rpc is not None:
            from aded_local.llama.devices import use_rpc_servers

            use_rpc_servers([each.strip() for each in rpc.split(",")])
        return LocalADED(model, **engine, on_progress=say, on_notice=display.notices)

    return open_model


if __name__ == "__main__":
    main()
