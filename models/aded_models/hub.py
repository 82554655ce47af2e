"""Models from the Hugging Face Hub, by way of its own client (the extra ``hub``).

The client knows the API, a person's access rights and the cache that programs share. Two things are done here that it
does not do: a download that was broken off is continued by the next call, and what came is compared with the SHA-256
that the hub announces.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aded_local.errors import ADEDError, ModelNotFoundError, OptionError, StoreError

from .installed import cache_variable, hub_cache, installed, repository_folder
from .references import GGUF_SUFFIX, Reference, choose
from .sizes import size_text

if TYPE_CHECKING:
    from types import ModuleType

INSTALL: Final = "pip install 'aded-local[hub]'"

ENDPOINT_VARIABLE: Final = "HF_ENDPOINT"
"""The hub's own variable for another address, such as a mirror's."""

TOKEN_VARIABLE: Final = "HF_TOKEN"
"""The hub's own variable for what says who somebody is."""

LONGEST_FILE_NAME: Final = 255
"""Bytes of one part of a path that the usual file systems take."""

SHOWN: Final = 80
"""Characters of what is wrong with a variable, as far as it is shown."""

TIMEOUT_SECONDS: Final = 15.0
"""For the list of a repository's files. Chosen: a slow line answers in a second or two."""

_HTTP_LIBRARIES: Final = ("httpx", "httpcore", "requests", "urllib3")
"""Of the client's versions; what they raise is about the connection."""

HASHED_AT_ONCE: Final = 1 << 22
"""Bytes read at a time where a file is hashed."""

WRITTEN_AT_ONCE: Final = 1 << 20
"""Bytes of a download. What came is kept in whole steps: with the client's own, ten times as large, a line that breaks
every few seconds would keep nothing."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

Say = Callable[[str], None]
Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class HubFile:
    """One file of a repository.

    Attributes:
        name: with its folders.
        size: bytes; None where the hub does not say.
        sha256: hexadecimal; None of small files, which the hub keeps otherwise.
    """

    name: str
    size: int | None
    sha256: str | None


def pull(wanted: Reference, on_progress: Say | None = None) -> Path:
    """The file to open of a model, which is downloaded where it is not here, or not as the hub has it now.

    Args:
        wanted: the model.
        on_progress: is told in a line, again and again, how far it is.

    Raises:
        ModelNotFoundError: there is no such model or no access to it, the hub cannot be reached, or what came is not
            what was announced.
        OptionError: the client is not installed.
        StoreError: the cache cannot be written.
    """
    files = listed(wanted.repository)
    names = choose(files, wanted)
    return download(wanted.repository, [files[name] for name in names], on_progress)[0]


def found_or_pulled(wanted: Reference, on_progress: Say | None = None) -> Path:
    """The same; what is here already is taken as it is, and nobody is asked.

    Raises:
        ModelNotFoundError, OptionError, StoreError: as ``pull``.
    """
    return installed(wanted) or pull(wanted, on_progress)


def listed(repository: str) -> dict[str, HubFile]:
    """All files of a repository by their names.

    Raises:
        ModelNotFoundError: there is no such repository, no access to it, or no hub.
        OptionError: the client is not installed.
    """
    client = _client()
    with _explained(client, repository):
        _require_sendable_token(client)
        api = client.HfApi(endpoint=_endpoint())
        info = api.model_info(repository, files_metadata=True, timeout=TIMEOUT_SECONDS)
    found = {}
    for one in info.siblings or ():
        sha256 = None if one.lfs is None else one.lfs.sha256
        if sha256 is not None and not _SHA256.fullmatch(sha256):  # it becomes a file's name
            raise ModelNotFoundError(
                f"{repository} announces {sha256!r} as the SHA-256 of {one.rfilename!r}, which is none: nothing is"
                " fetched"
            )
        found[one.rfilename] = HubFile(one.rfilename, one.size, sha256)
    return found


def download(
    repository: str,
    files: Sequence[HubFile],
    on_progress: Say | None = None,
    *,
    cache_dir: Folder | None = None,
    local_dir: Folder | None = None,
) -> list[Path]:
    """Download files that are not here yet; returns their paths.

    Args:
        repository: owner and name.
        files: as they are listed.
        on_progress: is told how far it is.
        cache_dir: the hub's cache, if it is not the usual one.
        local_dir: a folder to put them in instead of the cache; there a broken download begins anew.

    Raises:
        ModelNotFoundError, OptionError, StoreError: as ``pull``.
    """
    client = _client()
    cache = Path(cache_dir) if cache_dir is not None else hub_cache()
    _require_folder(Path(local_dir or cache), cache_variable() if cache_dir is local_dir is None else None)
    for file in files:
        _require_fetchable(repository, file)
    say = on_progress or (lambda _line: None)
    paths = []
    for number, file in enumerate(files, start=1):
        what = file.name if len(files) == 1 else f"{file.name} (part {number} of {len(files)})"
        with _explained(client, repository, begun=True), _in_our_way(client):
            if local_dir is None and _is_ours(client, file):
                _into_cache(client, repository, file, cache, what, say)
            else:
                say(f"fetching {what}")
            path = client.hf_hub_download(
                repository,
                file.name,
                cache_dir=cache,
                local_dir=local_dir,
                endpoint=_endpoint(),
            )
        paths.append(Path(path))
    return paths


def _require_folder(folder: Path, variable: str | None) -> None:
    """Refuse a folder that is none, or below a file, before anything comes.

    Args:
        folder: where models are to lie.
        variable: of the environment, that names it; None where the caller named it.

    Raises:
        StoreError
    """
    for there in (folder, *folder.parents):
        if os.path.isdir(there):
            return
        if os.path.lexists(there):
            advice = "another folder" if variable is None else f"another folder with {variable}"
            raise StoreError(f"models cannot be written to {folder}: {there} is no folder; name {advice}")


def _require_fetchable(repository: str, file: HubFile) -> None:
    """Refuse what no model can be, or no file here can be called.

    Raises:
        ModelNotFoundError
    """
    if not file.name.isprintable():
        why = f"the name {file.name[:SHOWN]!r} holds control characters"
    elif any(len(os.fsencode(part)) > LONGEST_FILE_NAME for part in file.name.split("/")):
        why = f"the name {file.name[:SHOWN]}… is longer than the {LONGEST_FILE_NAME} bytes that a file's may have"
    elif file.size == 0 and file.name.lower().endswith(GGUF_SUFFIX):
        why = f"{file.name} is empty there"
    else:
        return
    raise ModelNotFoundError(f"{repository} has a file that is not fetched: {why}; take another one")


def _is_ours(client: ModuleType, file: HubFile) -> bool:
    """Whether a file is downloaded here; the hub gives the largest ones by a protocol of its own, to the client."""
    largest = getattr(client.constants, "MAX_HTTP_DOWNLOAD_SIZE", None)
    return file.sha256 is not None and bool(file.size) and (largest is None or file.size <= largest)


# --- one file -------------------------------------------------------------------------------------


def _into_cache(client: ModuleType, repository: str, file: HubFile, cache: Path, what: str, say: Say) -> None:
    """Have the file's content lie where the client looks for it, so that it only adds the link."""
    from huggingface_hub.utils import WeakFileLock

    assert file.sha256 is not None and file.size is not None
    told = _Told(what, file.size, say)
    folder = repository_folder(repository, cache)
    content = folder / "blobs" / file.sha256
    lock = cache / ".locks" / folder.name / f"{file.sha256}.lock"  # the client's own
    for parent in (content.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not content.exists():
            unfinished = content.with_name(content.name + ".incomplete")
            _fill(client, repository, file, unfinished, told)
            told.checking()
            if (came := _sha256(unfinished)) != file.sha256:
                unfinished.unlink()
                raise ModelNotFoundError(
                    f"what came of {file.name} is not what {repository} announces: its SHA-256 begins with"
                    f" {came[:12]}, not {file.sha256[:12]}; it was removed, so try again"
                )
            os.replace(unfinished, content)


def _fill(client: ModuleType, repository: str, file: HubFile, unfinished: Path, told: _Told) -> None:
    from huggingface_hub.file_download import http_get

    assert file.size is not None
    with unfinished.open("ab") as out:
        try:
            if out.tell() > file.size:  # of something else
                out.truncate(0)
                out.seek(0)
            begun = out.tell()
            free = shutil.disk_usage(unfinished.parent).free
            if free < file.size - begun:
                raise StoreError(
                    f"{file.name} takes {size_text(file.size - begun)}, and the disk of {unfinished.parent.parent} has"
                    f" {size_text(free)} free; free some, or name a folder on another disk with {cache_variable()}"
                )
            http_get(
                client.hf_hub_url(repository, file.name, endpoint=_endpoint()),
                _Counted(out, told),
                resume_size=begun,
                headers=client.utils.build_hf_headers(),
                expected_size=file.size,
            )
        finally:
            if out.tell() == 0:
                unfinished.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASHED_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


class _Told:
    """Says in a line how far one file is."""

    def __init__(self, what: str, size: int, say: Say) -> None:
        self._what, self._size, self._say = what, size, say
        self._began = time.monotonic()
        self._first: int | None = None

    def at(self, done: int, came: int) -> None:
        """So many bytes are there, of which the last ``came`` just came."""
        if self._first is None:
            self._first = done - came
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = (done - self._first) / seconds
        left = f", {(self._size - done) / rate:.0f} s left" if rate > 0 else ""
        self._say(
            f"fetching {self._what}: {size_text(done)} of {size_text(self._size)}"
            f" ({done / max(self._size, 1):.0%}), {size_text(int(rate))}/s{left}"
        )

    def checking(self) -> None:
        """All is there, and is compared with what was announced."""
        self._say(f"checking {self._what}")


class _Counted:
    """A file that says what is written to it; as much of a file as ``http_get`` uses."""

    def __init__(self, out: IO[bytes], told: _Told) -> None:
        self._out, self._told = out, told

    def write(self, data: bytes) -> int:
        count = self._out.write(data)
        self._out.flush()  # what came is there for the next try, however this one ends
        self._told.at(self._out.tell(), count)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


# --- the client -----------------------------------------------------------------------------------


def _client() -> ModuleType:
    """The hub's client, which reads the variables of the environment when it is imported."""
    _endpoint()
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils  # neither is there before it is imported

        client: ModuleType = huggingface_hub
    except ImportError:
        raise OptionError(
            f"models of the Hugging Face Hub need its client, which is not installed; install it with {INSTALL}"
        ) from None
    return client


def _endpoint() -> str | None:
    """The hub's address, where a variable names another one.

    Raises:
        OptionError: what it says is none; the client would ask there all the same.
    """
    given = os.environ.get(ENDPOINT_VARIABLE)
    if given is None:
        return None
    try:
        parts = urlsplit(given)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not given.isascii() or not given.isprintable() or " " in given:
        raise OptionError(
            f"{ENDPOINT_VARIABLE} is {given[:SHOWN]!r}, which is no address of a hub; unset it, or give one that begins"
            " with https://"
        )
    return given.rstrip("/")


def _hub() -> str:
    """The hub, in the words of an error: with its address where a variable names another one, without who asks."""
    given = os.environ.get(ENDPOINT_VARIABLE)
    if given is None:
        return "the Hugging Face Hub"
    return f"the hub that {ENDPOINT_VARIABLE} names ({urlsplit(given).netloc.rpartition('@')[2][:SHOWN]})"


def _require_sendable_token(client: ModuleType) -> None:
    """Refuse a token that no request can carry.

    Raises:
        OptionError
    """
    token = client.utils.build_hf_headers().get("authorization", "")
    if not token.isascii() or not token.isprintable():
        where = (
            TOKEN_VARIABLE
            if os.environ.get(TOKEN_VARIABLE)
            else f"the token of `hf auth login` (or {TOKEN_VARIABLE})"
        )
        raise OptionError(f"{where} holds characters that no token has; copy it anew, or unset it")


@contextlib.contextmanager
def _in_our_way(client: ModuleType) -> Iterator[None]:
    """Without the client's own bars and warnings, since our lines say how far it is and what fails; in small steps."""
    logs, utils, constants = client.utils.logging, client.utils, client.constants
    before, had_bars, step = (
        logs.get_verbosity(),
        not utils.are_progress_bars_disabled(),
        constants.DOWNLOAD_CHUNK_SIZE,
    )
    logs.set_verbosity_error()
    utils.disable_progress_bars()
    constants.DOWNLOAD_CHUNK_SIZE = WRITTEN_AT_ONCE
    try:
        yield
    finally:
        logs.set_verbosity(before)
        if had_bars:
            utils.enable_progress_bars()
        constants.DOWNLOAD_CHUNK_SIZE = step


@contextlib.contextmanager
def _explained(client: ModuleType, repository: str, *, begun: bool = False) -> Iterator[None]:
    """What the client raises, and the libraries beneath it, in one line.

    Args:
        begun: a download that breaks off can be continued.
    """
    try:
        yield
    except ADEDError:
        raise
    except Exception as error:
        raise _explanation(error, client.errors, repository, begun) from error


def _explanation(error: Exception, known: Any, repository: str, begun: bool) -> ADEDError:
    log_in = "`hf auth login` or HF_TOKEN"
    if isinstance(error, known.GatedRepoError):
        return ModelNotFoundError(
            f"{repository} is given to people who accept its terms: do so at https://huggingface.co/{repository},"
            f" and say who you are with {log_in}"
        )
    if isinstance(error, known.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{_hub()} has no {repository} for you: check its name, or if it is private say who you are"
            f" with {log_in}"
        )
    if isinstance(error, known.HfHubHTTPError):
        return ModelNotFoundError(_refusal(error, repository, log_in))
    if isinstance(error, known.OfflineModeIsEnabled) or isinstance(
        error.__cause__, known.OfflineModeIsEnabled
    ):
        return ModelNotFoundError(
            f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids to ask for it"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"the disk is full: {repository} is not downloaded whole; free some space, and the same command goes on"
        )
    why = _why(error)
    if _is_network(error):
        next_time = "the same command goes on from there" if begun else "check the network and try again"
        return ModelNotFoundError(
            f"{repository} cannot be had, as {_hub()} does not answer ({why}); {next_time}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or hub_cache()
        return StoreError(
            f"{where} cannot be read or written ({error.strerror}); name another folder with {cache_variable()}"
        )
    return ModelNotFoundError(f"{repository} cannot be had from {_hub()}: {why}")


def _refusal(error: Any, repository: str, log_in: str) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"{_hub()} refuses {repository} ({status}): your token is not valid, or not for this; say"
            f" who you are with {log_in}"
        )
    if status == 404:
        return f"{_hub()} has no such file in {repository}; `aded-models pull` asks for its list anew"
    advice = "wait a while and try again" if status == 429 or status >= 500 else "try again"
    return f"{_hub()} answers {status} for {repository}; {advice}"


def _is_network(error: Exception) -> bool:
    """Whether it comes from the connection; the client's versions use different HTTP libraries."""
    return any(
        isinstance(each, (ConnectionError, TimeoutError)) or type(each).__module__.startswith(_HTTP_LIBRARIES)
        for each in _causes(error)
    )


def _why(error: Exception) -> str:
    """The first cause, on one line."""
    first = _causes(error)[-1]
    return " ".join(str(first).split()) or type(first).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """An exception, what it was raised for, and so on to the first."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(cause)
    return found
