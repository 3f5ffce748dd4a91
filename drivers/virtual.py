"""Virtual containers: files instead of dongles, for trying things out and for tests (decision 7).

A `.cmc` file is a whole container that signs and counts (`drivers.cmc`). Any other one describes containers in TOML,
which can only be read; the rest of this is about those.

A file that appears is a plug, one that is removed an unplug, and one that is edited both. Every scan reads the files
anew, since a change within a clock tick and of the same length shows in no stat. Only scans do: what is opened and read
is what the last scan found.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Final

from msgspec import Struct

from drivers import cmc, description, image
from drivers.container import ContainerKind
from drivers.driver import Busy, CheckCancelled, Device, Dongle, DriverError, ReadOnly, Vanished

_KIND: Final = ContainerKind.VIRTUAL

_Contents = dict[Dongle, bytes | DriverError]


class VirtualOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[drivers.virtual]`. `files` are absolute paths, of `.cmc` files or of TOML (`drivers.description`)."""

    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.files:
            if not name.startswith("/") or "\0" in name:
                msg = f"{name!r} in files is no absolute path; write it as in '/etc/cmserverd/trial.toml'"
                raise ValueError(msg)


class VirtualDriver:
    """Gives the containers that the files describe. A file that is wrong shows in a scan too: `open` says why."""

    name = "virtual"
    Options = VirtualOptions

    def __init__(self, options: VirtualOptions, check_cancelled: CheckCancelled) -> None:
        paths = [Path(name) for name in options.files]
        self._files = {  # by the beginning of their dongles' keys
            str(path): cmc.CmcFile(path) if path.suffix == cmc.SUFFIX else _Described(path) for path in paths
        }
        self._check_cancelled = check_cancelled

    def scan(self) -> frozenset[Dongle]:
        """Return one dongle for each container that a file describes, and one for each file that is wrong."""
        return frozenset(dongle for file in self._files.values() for dongle in file.dongles())

    def open(self, dongle: Dongle) -> Device:
        """Return the device. Raises Vanished if the last scan did not find it, any DriverError if its file is wrong."""
        self._check_cancelled()
        file = self._files.get(dongle.key.rpartition("#")[0])
        if file is None:
            raise _gone(dongle)
        return file.open(dongle)

    def check(self) -> list[DriverError]:
        """Return what is wrong with the files, and which are not there; one that another process has is right."""
        found: list[DriverError] = []
        for path, file in self._files.items():
            dongles = file.dongles()
            if not dongles and not Path(path).exists():
                found.append(
                    Vanished(f"There is no such file yet: {path}; once it is there, its containers are served.")
                )
            for dongle in dongles:
                try:
                    device = file.open(dongle)
                    device.read()
                except Busy:
                    continue
                except DriverError as error:
                    found.append(error)
                    continue
                device.close()
        return found

    def hotplug(self) -> None:
        """Return None: files give no hints, the daemon's scans find them."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _Described:
    """One TOML file, and what the last scan took it to describe.

    Who saves a file may empty it first and write it in pieces, and a piece may be sound TOML that has fewer licenses.
    So bytes that changed are believed once two scans in a row have found them. `contents` is one assignment of one
    value, so threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self.contents: _Contents = {}
        self._path = path
        self._believed: tuple[bytes, _Contents] | None = None
        self._doubted: bytes | None = None

    def dongles(self) -> frozenset[Dongle]:
        """Read the file, and return the dongles that it describes."""
        self._look()
        return frozenset(self.contents)

    def open(self, dongle: Dongle) -> VirtualDevice:
        """Return the device. Raises DriverError as its `read` does."""
        device = VirtualDevice(self, dongle)
        device.read()
        return device

    def _look(self) -> None:
        """Read the file, and have in `contents` each dongle with its image, or the error that opening it shall give."""
        try:
            octets = description.read(self._path)
        except Vanished:
            self._doubted, self.contents = None, {}
            return
        except DriverError as error:
            self._doubted, self.contents = None, {self._dongle("", str(error).encode()): error}
            return
        if self._believed is None or octets == self._doubted:
            self._believed = octets, self._parsed(octets)
        elif octets != self._believed[0]:
            self._doubted = octets
            return
        self._doubted, self.contents = None, self._believed[1]

    def _parsed(self, octets: bytes) -> _Contents:
        try:
            containers = description.parse(octets, str(self._path), _KIND)
            images = {container.id: image.encode(container) for container in containers}
        except DriverError as error:
            return {self._dongle("", octets): error}
        return {self._dongle(name, encoded): encoded for name, encoded in images.items()}

    def _dongle(self, name: str, octets: bytes) -> Dongle:
        """Return a dongle whose key changes with what is in the file, and stays if only its time or a comment does.

        `name` is the container's id, empty for a file that is wrong.

        A CRC would not do: the parts of an image end with their own, so that the CRC of the whole is always the same.
        """
        digest = blake2b(octets, digest_size=8).hexdigest()
        text = f"virtual container {name} in {self._path}" if name else f"file {self._path}"
        return Dongle("virtual", f"{self._path}#{name}@{digest}", text)


class VirtualDevice(ReadOnly):
    """One container of a file."""

    def __init__(self, file: _Described, dongle: Dongle) -> None:
        self._file = file
        self._dongle = dongle
        self._closed = False

    def read(self) -> bytes:
        """Return the image. Raises Vanished if the last scan did not find it, any DriverError if its file is wrong."""
        if self._closed:
            msg = "The virtual container is closed; open it again."
            raise DriverError(msg)
        content = self._file.contents.get(self._dongle)
        if content is None:
            raise _gone(self._dongle)
        if isinstance(content, DriverError):
            raise type(content)(*content.args)  # anew: an exception that is raised twice gathers tracebacks
        return content

    def close(self) -> None:
        """Let go of the file; it can be opened again."""
        self._closed = True


def _gone(dongle: Dongle) -> Vanished:
    return Vanished(f"The {dongle.text} is there no longer as it was; the next scan shows what is.")
