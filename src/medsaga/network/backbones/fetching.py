"""Official weights, fetched from where they are published."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from medsaga.errors import MedsagaError
from medsaga.network.backbones.checkpoints import sha256
from medsaga.network.backbones.file_work import (
    alone_with,
    check_room,
    disk_explained,
    hidden,
    in_thread,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from requests import Response

    from medsaga.events import Stream
    from medsaga.network.backbones.checkpoints import OfficialCheckpoint
    from medsaga.network.backbones.file_work import Report

# Between one try and the next, in seconds: what has come is kept, and gone on from.
_PAUSES = (1.0, 3.0, 9.0)
_SECONDS_OF_SILENCE = 30.0
_PIECE = 1 << 18
_MB = 1e6


def fetch(checkpoint: OfficialCheckpoint) -> Stream[Path | None]:
    """Fetch a file to where it belongs, and return its path; None if stopped.

    It has its name only once it is whole and its SHA-256 is right. What has come by a
    stop or an error is kept under another, and a later call goes on from there. Where
    another process fetches the same file, this one waits and finds it.

    Raises
    ------
    MedsagaError
        If it cannot be reached or written, or is not what is expected there.
    """
    return in_thread(lambda report: _Fetch(checkpoint, report).run(), checkpoint.name)


class _CutOff(Exception):
    """The connection failed in a way that the next try may not."""


class _OtherContents(Exception):
    """All of the file has come, and its SHA-256 is another."""


class _Fetch:
    """One call's work, in a thread of its own."""

    def __init__(self, checkpoint: OfficialCheckpoint, report: Report) -> None:
        self._file, self._report = checkpoint, report
        self._target = checkpoint.target
        self._part = hidden(self._target, "part")
        self._response: Response | None = None

    def run(self) -> Path:
        with alone_with(self._target, self._report):
            if self._is_there():
                return self._target
            check_room(self._target, self._file.n_bytes - self._n_here())
            try:
                self._try_until_whole()
                with disk_explained(self._target):
                    os.replace(self._part, self._target)
            finally:
                if self._n_here() == 0:
                    self._part.unlink(missing_ok=True)
        return self._target

    def _is_there(self) -> bool:
        self._report.begin("Checking", self._file.n_bytes)
        return self._target.is_file() and self._file.is_whole(
            self._target, self._report.add
        )

    def _n_here(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _try_until_whole(self) -> None:
        for pause in (*_PAUSES, None):
            begun_with = self._n_here()
            try:
                self._go_on()
                return
            except _OtherContents as error:
                self._part.unlink()
                # Two halves may be of two files; one that came at once is another's.
                if begun_with == 0 or pause is None:
                    raise self._refusal(
                        "what came has another SHA-256 and is not kept"
                    ) from error
                self._report.say(f"{self._target.name} is damaged: fetching it anew.")
            except _CutOff as error:
                if pause is None:
                    raise self._refusal(f"{error}{self._kept()}") from error
                self._report.say(f"Trying again: {error}{self._kept()}.")
                self._report.wait(pause)

    def _kept(self) -> str:
        here = self._n_here()
        return f", the {here / _MB:.0f} MB that came are kept" if here else ""

    def _go_on(self) -> None:
        """Fetch what is missing, and check the whole."""
        if self._n_here() > self._file.n_bytes:
            self._part.unlink()
        if self._n_here() < self._file.n_bytes:
            with disk_explained(self._target), self._part.open("ab") as part:
                self._get(part)
                part.flush()
                os.fsync(part.fileno())
        if self._n_here() < self._file.n_bytes:
            raise _CutOff("the connection was cut")
        self._report.begin("Checking", self._file.n_bytes)
        if sha256(self._part, self._report.add) != self._file.sha256:
            raise _OtherContents

    def _get(self, part: BinaryIO) -> None:
        import pooch

        begin = part.tell()
        self._report.begin("Fetching", self._file.n_bytes)
        self._report.add(begin)
        headers = {"Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        download = pooch.HTTPDownloader(
            chunk_size=_PIECE,
            timeout=_SECONDS_OF_SILENCE,
            headers=headers,
            hooks={"response": partial(self._on_response, part)},
        )
        try:
            download(self._file.url, _Pieces(part, self._take), None)
        except OSError as error:  # requests' are, and one of a certificate's file
            self._explain(error)
        finally:
            if self._response is not None:
                self._response.close()

    def _take(self, part: BinaryIO, piece: bytes) -> None:
        self._report.add(len(piece))
        if part.tell() + len(piece) > self._file.n_bytes:
            part.truncate(0)
            raise self._refusal(
                f"the server sends more than the {self._file.n_bytes:,} bytes that it "
                "should have"
            )
        with disk_explained(self._target):
            part.write(piece)

    def _on_response(self, part: BinaryIO, response: Response, **_: Any) -> None:
        """Look at what a server is about to send, before anything of it is kept."""
        self._response = response
        if response.status_code == 416:  # what is here is more than there is
            part.truncate(0)
            raise _CutOff("the server has not the rest of what is here")
        if response.status_code not in (200, 206):
            return
        is_part = response.status_code == 206
        self._check_length(response, is_part=is_part)
        if part.tell() and not is_part:  # it knows no parts, and sends the whole
            part.truncate(0)
            part.seek(0)
            self._report.begin("Fetching", self._file.n_bytes)

    def _check_length(self, response: Response, *, is_part: bool) -> None:
        if response.headers.get("Content-Type", "").startswith("text/"):
            raise self._refusal("what is sent is a page, perhaps to log in on")
        total = response.headers.get("Content-Length", "")
        if is_part:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdecimal() and int(total) != self._file.n_bytes:
            raise self._refusal(
                f"the server has a file of {int(total):,} bytes there in place of "
                f"{self._file.n_bytes:,}"
            )

    def _explain(self, error: OSError) -> None:
        """Raise what the user can make something of, or `_CutOff`."""
        from requests import exceptions

        host = urlsplit(self._file.url).netloc
        if isinstance(error, exceptions.SSLError):
            reason = (
                f"there is no secure connection to {host}, look at this computer's "
                "clock, and name your institution's certificate in REQUESTS_CA_BUNDLE "
                "if it has one"
            )
            raise self._refusal(reason) from error
        if isinstance(error, exceptions.ProxyError):
            reason = "the proxy of HTTPS_PROXY or of the system does not let it through"
            raise self._refusal(reason) from error
        response = getattr(error, "response", None)
        if isinstance(error, exceptions.HTTPError) and response is not None:
            said = f"{host} answers {response.status_code} {response.reason}".strip()
            if response.status_code not in (408, 429) and response.status_code < 500:
                raise self._refusal(said) from error
            raise _CutOff(said) from error
        if isinstance(error, exceptions.ChunkedEncodingError):
            raise _CutOff("the connection was cut") from error
        if "timed out" in str(error):
            silence = f"{host} said nothing for {_SECONDS_OF_SILENCE:.0f} seconds"
            raise _CutOff(silence) from error
        if isinstance(error, exceptions.ConnectionError):
            raise _CutOff(f"there is no connection to {host}") from error
        raise self._refusal(str(error)) from error

    def _refusal(self, reason: str) -> MedsagaError:
        return MedsagaError(
            f"{self._target.name} cannot be fetched ({reason}): try again later, or "
            f"{self._file.by_hand}."
        )


class _Pieces:
    """What pooch writes to."""

    def __init__(
        self, part: BinaryIO, take: Callable[[BinaryIO, bytes], object]
    ) -> None:
        self._part, self._take = part, take

    def write(self, piece: bytes) -> None:
        self._take(self._part, piece)

    def flush(self) -> None:
        """Leave it to the file: to flush each piece is only slow."""
