"""The program of the process in which a chat template runs; ``aded_local.chat.rendering`` starts it and asks.

Both sides send packets: eight bytes of length, one byte for the kind, and text. The child first sends a
``READY_PACKET``. The first request is the template, each later one the variables of a rendering; every request gets one
answer.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import struct
import sys
from typing import IO

import jinja2

from aded_local.chat.bounds import MAX_OUTPUT, TooMuch
from aded_local.chat.sandbox import Sandbox, complaint
from aded_local.trials import trial

TEMPLATE_PACKET, VARIABLES_PACKET = b"T", b"V"
READY_PACKET, TEXT_PACKET, REFUSED_PACKET, TOO_MUCH_PACKET = b"R", b"t", b"r", b"m"

TOO_MUCH_MEMORY = "it takes more memory than it may"

_LENGTH = struct.Struct(">Q")
_LARGEST = 4 * MAX_OUTPUT + 1
"""Bytes of an answer at most: UTF-8 takes four for a character."""


def send(stream: IO[bytes], kind: bytes, text: str) -> None:
    """Write a packet. A template can make lone surrogates, and they come through.

    Raises:
        OSError, ValueError: nobody reads any more.
    """
    body = kind + text.encode("utf-8", "surrogatepass")
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[bytes, str] | None:
    """Read a packet: what it is, and its text. None where the other side has ended.

    Raises:
        OSError, ValueError: it is none.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > _LARGEST:
        raise ValueError(f"a packet of {size} bytes")
    body = stream.read(size)
    if len(body) < size:
        return None
    return body[:1], body[1:].decode("utf-8", "surrogatepass")


def serve(seconds: float, memory: float, patience: float) -> None:
    """Answer until standard input ends.

    Args:
        seconds: processor time of a rendering, as the sandbox counts it.
        memory: bytes this process may take; Linux binds it, elsewhere the parent looks.
        patience: seconds after which an answer is overdue, and this process ends: the parent may have died meanwhile.
    """
    trial.die_quietly()
    trial.bound_memory(int(memory))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    sandbox = Sandbox(seconds)
    template: jinja2.Template | None = None
    send(told, READY_PACKET, "")
    while (request := receive(asked)) is not None:
        faulthandler.dump_traceback_later(patience, exit=True)
        kind, text = request
        try:
            if kind == TEMPLATE_PACKET:
                template = sandbox.from_string(text)
                answer = READY_PACKET, ""
            else:
                assert template is not None
                answer = TEXT_PACKET, sandbox.render_within_bounds(template, json.loads(text))
        except TooMuch as error:
            answer = TOO_MUCH_PACKET, complaint(error)
        except MemoryError:
            answer = TOO_MUCH_PACKET, TOO_MUCH_MEMORY
        # A template can raise whatever Python can, and compiling runs Python's parser and Jinja's.
        except Exception as error:
            answer = REFUSED_PACKET, complaint(error)
        text = ""
        send(told, *answer)
        faulthandler.cancel_dump_traceback_later()
