"""Where a user's loans are kept: a private directory, with up to two files for each loan.

`ID.loan` has the private key and what was lent, `ID.receipt` is there once the license was given back: from then on
the loan is nobody's, even if the server has not heard of it yet. `clock` has the latest time that was seen. Whatever is
written is there as a whole or not at all, and stays there when the power fails.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from protocol.errors import SettingError
from protocol.loan_files import KEPT, LIMIT, RECEIPT, Kept, Unreadable
from protocol.messages import GiveBack

_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_TIME: Final = re.compile(r"[0-9]{1,15}\n?\Z")


class LoanStore:
    """The directory, the user's own if none is named. What cannot be read or written raises SettingError."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or user_data_path("cmserverd", appauthor=False) / "loans"

    def ids(self) -> tuple[bytes, ...]:
        """Return the ids of all loans that there are files of."""
        try:
            names = sorted(path.stem for path in self.directory.iterdir() if path.suffix == ".loan")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unusable("read", error) from None
        return tuple(bytes.fromhex(name) for name in names if _ID.match(name))

    def path(self, loan: bytes) -> Path:
        """Return where a loan is kept."""
        return self.directory / f"{loan.hex()}.loan"

    def kept(self, loan: bytes) -> Kept | None:
        """Return what is kept of a loan, or None. Raises Unreadable."""
        octets = _read(self.path(loan))
        if octets is None:
            return None
        kept = KEPT.decode(octets)
        if kept.asked.id != loan:
            raise Unreadable("is damaged: it is that of another loan")
        return kept

    def keep(self, kept: Kept) -> None:
        """Write what is kept of a loan, in the place of what was there."""
        self._write(self.path(kept.asked.id), KEPT.encode(kept))

    def given_back(self, loan: bytes) -> bool:
        """Whether there is a receipt, readable or not."""
        return self._receipt(loan).exists()

    def receipt(self, loan: bytes) -> GiveBack | None:
        """Return the receipt of a loan that was given back, or None. Raises Unreadable."""
        octets = _read(self._receipt(loan))
        if octets is None:
            return None
        receipt = RECEIPT.decode(octets)
        if receipt.id != loan:
            raise Unreadable("is damaged: it is that of another loan")
        return receipt

    def give_back(self, receipt: GiveBack) -> None:
        """Write the receipt of a loan."""
        self._write(self._receipt(receipt.id), RECEIPT.encode(receipt))

    def forget(self, loan: bytes) -> None:
        """Remove what is kept of a loan: the receipt last, so that it cannot be used again in between."""
        try:
            self.path(loan).unlink(missing_ok=True)
            self._receipt(loan).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("changed", error) from None

    def seen(self) -> int:
        """Return the latest time that was seen (Unix seconds), 0 if none was."""
        try:
            octets = _read(self.directory / "clock") or b""
        except Unreadable:
            return 0
        text = octets.decode("ascii", errors="replace")
        return int(text) if _TIME.match(text) else 0

    def see(self, time: int) -> None:
        """Write down a time (Unix seconds)."""
        self._write(self.directory / "clock", b"%d\n" % time)

    def _receipt(self, loan: bytes) -> Path:
        return self.directory / f"{loan.hex()}.receipt"

    def _write(self, path: Path, octets: bytes) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, draft = tempfile.mkstemp(dir=self.directory, prefix=f".{path.name}-")  # 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(octets)
                    file.flush()
                    os.fsync(file.fileno())
                Path(draft).replace(path)
            except BaseException:
                Path(draft).unlink()
                raise
            directory = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._unusable("written", error) from None

    def _unusable(self, done: str, error: OSError) -> SettingError:
        why = error.strerror or error
        return SettingError(f"what is borrowed is kept in {self.directory}, which cannot be {done}: {why}")


def _read(path: Path) -> bytes | None:
    """Return a file's bytes, one more than `LIMIT` at most; None if there is none. Raises Unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable("is no file")
            return file.read(LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
