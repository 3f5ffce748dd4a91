"""The classic calls against real daemons: one that signs and counts on this machine, one that passes for another's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from drivers import cmc, keys
from drivers.container import Allowance, Container, ContainerKind, FirmItem, Period, ProductItem, QuantityFlag
from drivers.container import container_id as box_id
from drivers.image import SigningKeys
from protocol import classic as cm
from protocol import proof
from protocol.blocking import Client
from protocol.classic import servers
from protocol.classic.handles import HANDLES
from protocol.errors import ErrorNumber
from protocol.messages import AccessKey, Crypt, CryptAnswer
from tests.daemon.harness import CHARTS, FIRM, LIMIT, Daemon, ending

UNITS, LAST = 15, 16
LICENSOR = keys.generate()
FAR = 4_000_000_000
RELEASES = Period(1_000_000_000, 1_000_086_400)

COUNTED = ProductItem(
    2,
    UNITS,
    "Units",
    9,
    QuantityFlag.DENY_EXCLUSIVE,
    feature_map=0b101,
    expiration=FAR,
    maintenance=RELEASES,
    units=Allowance(10),
    linger=0,
    protected_data=b"theirs",
    user_data=b"ours",
)
BOX = Container(
    box_id(3, 7),
    ContainerKind.VIRTUAL,
    "Desk",
    (FirmItem(FIRM, "Chart Works", 4, (ProductItem(1, CHARTS, "Charts", 2), COUNTED, ProductItem(3, LAST, "Last"))),),
)


def address(daemon: Daemon) -> str:
    """Return where clients find a daemon."""
    return "{}:{}".format(*daemon.address)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The server of this machine, with a container that signs."""
    directory = tmp_path_factory.mktemp("desk")
    daemon = Daemon(directory, dongle=None)
    cmc.create(directory / "box.cmc", BOX, SigningKeys(keys.generate(), {FIRM: LICENSOR}))
    text = daemon.config.read_text().replace("dongle.toml", "box.cmc")
    daemon.config.write_text(text.replace('"unsigned"', f'"{keys.to_text(keys.public_of(LICENSOR))}"'))
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The server in the LAN, with two licenses of one product."""
    daemon = Daemon(tmp_path_factory.mktemp("rack"))
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture(autouse=True)
def _configured(desk: Daemon, rack: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configure both servers, of which the second counts as another machine's; leave no session behind."""
    settings = tmp_path / "cmserverd"
    settings.mkdir()
    (settings / "client.toml").write_text(f'servers = ["{address(rack)}", "{address(desk)}"]')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CMSERVERD_STATION", "desk-4")
    monkeypatch.delenv("CMSERVERD_SERVER", raising=False)
    monkeypatch.setattr(servers, "is_here", lambda server: str(server[0]) == address(desk))
    yield
    HANDLES.end()


def charts(flags: int, **fields: object) -> int:
    """Ask for the product that both servers have."""
    return cm.CmAccess2(flags, replace(cm.CMACCESS2(firm_code=FIRM, product_code=CHARTS), **fields))


def of(product_code: int, flags: int = cm.CM_ACCESS_LOCAL, **fields: object) -> int:
    """Return a handle on one of the desk's products."""
    handle = cm.CmAccess2(flags, replace(cm.CMACCESS2(firm_code=FIRM, product_code=product_code), **fields))
    assert handle, cm.CmGetLastErrorText()
    return handle


def where(handle: int) -> str:
    """Return the container that serves a handle: 3-7 is at the desk, 3-1 in the rack."""
    box = cm.CmGetInfo(handle, cm.CM_GEI_BOXINFO)
    assert isinstance(box, cm.CMBOXINFO), cm.CmGetLastErrorText()
    return f"{box.box_mask}-{box.serial_number}"


# --- handles ------------------------------------------------------------------------------------------------------


def test_a_handle_is_a_number_and_is_released_once() -> None:
    """The second release is an error of its own, 106; and 0 is no handle."""
    handle = of(CHARTS)
    assert handle > 0
    assert (cm.CmGetLastErrorCode(), cm.CmGetLastErrorText()) == (0, "There is no error, Error 0.")
    assert cm.CmRelease(handle) is True
    assert cm.CmRelease(handle) is False
    assert cm.CmGetLastErrorCode() == ErrorNumber.INVALID_HANDLE
    assert cm.CmGetLastErrorText().endswith(", Error 106.")
    assert cm.CmGetInfo(handle, cm.CM_GEI_BOXINFO) is None
    assert cm.CmRelease(0) is False


def test_the_last_error_is_each_threads_own() -> None:
    """What goes wrong in one thread is not seen in another; a call that succeeds clears it."""
    assert cm.CmRelease(99_999) is False
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cm.CmGetLastErrorCode).result() == 0
        assert pool.submit(of, CHARTS).result()
    assert cm.CmGetLastErrorCode() == 106
    of(CHARTS)
    assert cm.CmGetLastErrorCode() == 0


def test_threads_that_come_at_once_share_one_session(desk: Daemon) -> None:
    """One session per server, however many threads ask first; each gets a handle of its own."""
    together = threading.Barrier(8)

    def act() -> int:
        together.wait(LIMIT)
        return of(UNITS, cm.CM_ACCESS_STATIONSHARE, server_name=address(desk))

    with ThreadPoolExecutor(8) as pool:
        handles = [future.result() for future in [pool.submit(act) for _ in range(8)]]
        assert len(set(handles)) == 8
        users = cm.CmGetInfo(handles[0], cm.CM_GEI_NETINFO_USER_EXT)
        assert isinstance(users, tuple)
        assert len({user.credential.session for user in users if isinstance(user, cm.CMNETINFOUSER_EXT)}) == 1
        assert all(pool.map(cm.CmRelease, handles))


def test_a_forked_process_begins_anew() -> None:
    """The parent's handle is none of the child's, whose own have other numbers; and the parent's goes on."""
    handle = of(UNITS)
    child = os.fork()
    if not child:
        code = 1
        try:
            foreign = cm.CmGetInfo(handle, cm.CM_GEI_BOXINFO), cm.CmGetLastErrorCode()
            own = of(UNITS)
            code = 0 if foreign == (None, 106) and own > handle and cm.CmRelease(own) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert where(handle) == "3-7"


def test_a_handle_survives_a_restart_of_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The access is asked for anew behind the same number."""
    (tmp_path / "one").mkdir()
    daemon = Daemon(tmp_path / "one")
    with ending(daemon):
        daemon.serve().said("container plugged in")
        monkeypatch.setenv("CMSERVERD_SERVER", address(daemon))
        first, handle = charts(cm.CM_ACCESS_LAN), charts(cm.CM_ACCESS_LAN)
        assert cm.CmRelease(first)
        listen = address(daemon)
        daemon.kill()
        (tmp_path / "two").mkdir()
        another = Daemon(tmp_path / "two", listen=listen)
        with ending(another):
            another.serve().said("container plugged in")
            access = HANDLES.get(handle).access
            deadline = time.monotonic() + LIMIT
            while access.handle != 1 and time.monotonic() < deadline:  # it was 2 at the first server
                cm.CmGetInfo(handle, cm.CM_GEI_SYSTEM)
            assert where(handle) == "3-1"
            assert cm.CmRelease(handle)


# --- CmAccess2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "served"),
    [
        (cm.CM_ACCESS_LOCAL, ["3-7", "3-7", ""]),
        (cm.CM_ACCESS_LAN, ["3-1", "3-1", ""]),
        (cm.CM_ACCESS_LOCAL_LAN, ["3-7", "3-7", "3-1", "3-1", ""]),
        (cm.CM_ACCESS_LAN_LOCAL, ["3-1", "3-1", "3-7", "3-7", ""]),
    ],
)
def test_behaviour_8_the_location_says_who_is_asked_and_in_which_order(location: int, served: list[str]) -> None:
    """Until nobody has one: 212."""
    got = [charts(location) for _ in served]
    assert got[-1] == 0
    assert cm.CmGetLastErrorCode() == ErrorNumber.NO_MORE_LICENSES
    assert [where(handle) if handle else "" for handle in got] == served


def test_a_share_goes_before_the_sequence() -> None:
    """A share held in the LAN is joined by a request that would begin locally, and the reverse (behaviour 7)."""
    for first, then, at in (
        (cm.CM_ACCESS_LAN, cm.CM_ACCESS_LOCAL_LAN, "3-1"),
        (cm.CM_ACCESS_LOCAL, cm.CM_ACCESS_LAN_LOCAL, "3-7"),
    ):
        handles = [charts(first | cm.CM_ACCESS_STATIONSHARE), charts(then | cm.CM_ACCESS_STATIONSHARE)]
        assert [where(handle) for handle in handles] == [at, at]
        assert all(cm.CmRelease(handle) for handle in handles)
    assert where(charts(cm.CM_ACCESS_LAN_LOCAL | cm.CM_ACCESS_STATIONSHARE)) == "3-1"


@pytest.mark.parametrize(
    ("flags", "number", "said"),
    [
        (cm.CM_ACCESS_LANWAN, 306, "CM_ACCESS_LANWAN,"),
        (cm.CM_ACCESS_LOCAL_LANWAN, 306, "CM_ACCESS_LOCAL_LANWAN,"),
        (cm.CM_ACCESS_LANWAN_LOCAL, 306, "CM_ACCESS_LANWAN_LOCAL,"),
        (cm.CM_ACCESS_CHECK_FSB, 306, "CM_ACCESS_CHECK_FSB"),
        (cm.CM_ACCESS_CHECK_CTSB, 306, "CM_ACCESS_CHECK_CTSB"),
        (cm.CM_ACCESS_BORROW_ACCESS, 306, "CM_ACCESS_BORROW_ACCESS"),
        (cm.CM_ACCESS_BORROW_RELEASE, 306, "CM_ACCESS_BORROW_RELEASE"),
        (cm.CM_ACCESS_BORROW_VALIDATE, 306, "CM_ACCESS_BORROW_VALIDATE"),
        (cm.CM_ACCESS_BORROW_IGNORESTATE, 306, "CM_ACCESS_BORROW_IGNORESTATE"),
        (0x10, 105, "0x10"),
        (0x4, 105, "0x4"),
        (0x500, 105, "0x500"),
        (0x800, 105, "0x800"),
        (0x20000000, 105, "0x20000000"),
        (-1, 306, "CM_ACCESS_CHECK_FSB"),
        (cm.CM_ACCESS_SUBSYSTEM, 105, "CM_ACCESS_SUBSYSTEM"),
    ],
)
def test_a_flag_that_is_not_obeyed_is_refused_by_name(flags: int, number: int, said: str) -> None:
    """In the first argument, and in the record's ctrl."""
    assert charts(flags) == 0
    assert cm.CmGetLastErrorCode() == number
    assert said in cm.CmGetLastErrorText()
    if flags >= cm.CM_ACCESS_CHECK_FSB:
        assert charts(cm.CM_ACCESS_LOCAL, ctrl=flags) == 0
        assert cm.CmGetLastErrorCode() == number


@pytest.mark.parametrize(
    ("fields", "number", "said"),
    [
        ({"ctrl": cm.CM_ACCESS_LAN}, 105, "first argument"),
        ({"firm_code": -1}, 105, "firm_code"),
        ({"feature_code": 2**70}, 105, "feature_code"),
        ({"product_code": "14"}, 105, "product_code"),
        ({"box_mask": 3}, 105, "serial_number"),
        ({"server_name": "no host:at:all:1"}, 105, "IPv6"),
        ({"server_name": "127.0.0.1:1"}, 101, "127.0.0.1:1"),
        ({"used_runtime_version": 0x80000}, 306, "used_runtime_version"),
        ({"minimum_firmware_major": 1}, 306, "minimum_firmware_major"),
        ({"minimum_firmware_minor": 1}, 306, "minimum_firmware_minor"),
        ({"borrow_data": b"x"}, 306, "borrow_data"),
        ({"credential": cm.CMCREDENTIAL(cleanup_time=86_401)}, 105, "cleanup_time"),
        ({"credential": cm.CMCREDENTIAL(pid=5)}, 306, "pid"),
        ({"credential": cm.CMCREDENTIAL(user_name="fs")}, 306, "user_name"),
        ({"serial_number": 99, "box_mask": 3}, 201, "container"),
        ({"product_item_reference": 2}, 200, "license"),
        ({"product_code": UNITS, "feature_code": 0b10}, 30, "feature"),
        ({"product_code": UNITS, "release_date": RELEASES.end}, 78, "maintenance"),
        ({"product_code": UNITS, "ctrl": cm.CM_ACCESS_EXCLUSIVE}, 223, "mode"),
    ],
)
def test_a_field_is_obeyed_or_refused(fields: dict[str, object], number: int, said: str) -> None:
    """Each with its number, and a text that names what is wrong."""
    assert charts(cm.CM_ACCESS_LOCAL, **fields) == 0
    assert cm.CmGetLastErrorCode() == number
    assert said in cm.CmGetLastErrorText()


def test_what_the_flags_grant() -> None:
    """Modes, kinds, force, and the flags in either place."""
    for flags, ctrl, mode in (
        (cm.CM_ACCESS_EXCLUSIVE, 0, cm.CM_ACCESS_EXCLUSIVE),
        (0, cm.CM_ACCESS_STATIONSHARE, cm.CM_ACCESS_STATIONSHARE),
        (cm.CM_ACCESS_CONVENIENT, 0, cm.CM_ACCESS_STATIONSHARE),
        (cm.CM_ACCESS_NOUSERLIMIT | cm.CM_ACCESS_IGNORE_LINGERTIME, 0, cm.CM_ACCESS_NOUSERLIMIT),
    ):
        handle = charts(cm.CM_ACCESS_LOCAL | flags, ctrl=ctrl)
        entry = cm.CmGetInfo(handle, cm.CM_GEI_ENTRYINFO)
        assert isinstance(entry, cm.CMENTRYINFO)
        assert entry.access_mode == mode
        assert cm.CmRelease(handle)
    assert of(UNITS, cm.CM_ACCESS_FORCE, release_date=RELEASES.end)
    assert HANDLES.get(of(CHARTS, cm.CM_ACCESS_IGNORE_LINGERTIME)).access.request.ignore_linger
    wanted = cm.CMCREDENTIAL(max_life_time=600, cleanup_time=900)
    bounded = cm.CmGetInfo(of(CHARTS, credential=wanted), cm.CM_GEI_CREDENTIAL)
    assert isinstance(bounded, cm.CMCREDENTIAL)
    assert (bounded.max_life_time, bounded.cleanup_time) == (600, 900)
    firm = of(0, cm.CM_ACCESS_FIRMITEM)
    assert cm.CmGetInfo(firm, cm.CM_GEI_ENTRYINFO) == cm.CMENTRYINFO(FIRM, "Chart Works", 4, None, None, None, None)
    assert cm.CmGetInfo(firm, cm.CM_GEI_ENTRYDATA) is None
    assert cm.CmGetLastErrorCode() == ErrorNumber.WRONG_HANDLE_TYPE


def test_a_handle_on_the_subsystem_where_there_is_no_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a container the handle is on that, with or without the flag."""
    assert where(cm.CmAccess2(cm.CM_ACCESS_LOCAL, cm.CMACCESS2())) == "3-7"
    assert where(cm.CmAccess2(cm.CM_ACCESS_LOCAL | cm.CM_ACCESS_SUBSYSTEM, cm.CMACCESS2())) == "3-7"
    empty = Daemon(tmp_path, dongle=None)
    with ending(empty):
        empty.serve()
        monkeypatch.setenv("CMSERVERD_SERVER", address(empty))
        client = Client()
        with client:
            deadline = time.monotonic() + LIMIT
            while client.server_info().starting:
                assert time.monotonic() < deadline
        assert cm.CmAccess2(cm.CM_ACCESS_LAN, cm.CMACCESS2()) == 0
        assert cm.CmGetLastErrorCode() == ErrorNumber.BOX_NOT_FOUND
        handle = cm.CmAccess2(cm.CM_ACCESS_LAN, cm.CMACCESS2(ctrl=cm.CM_ACCESS_SUBSYSTEM))
        assert handle
        assert cm.CmGetInfo(handle, cm.CM_GEI_BOXINFO) is None
        assert cm.CmGetLastErrorCode() == ErrorNumber.WRONG_HANDLE_TYPE
        assert cm.CmGetInfo(handle, cm.CM_GEI_NETINFO_CLUSTER) == ()
        assert cm.CmGetBoxes(handle) == ()
        assert cm.CmGetLastErrorCode() == 0


# --- CmGetInfo ----------------------------------------------------------------------------------------------------


def test_what_a_handle_is_on(desk: Daemon) -> None:
    """The container, the entry with all its options, the server; what cannot be known is None."""
    handle = of(UNITS, feature_code=0b101, release_date=RELEASES.start)
    assert cm.CmGetInfo(handle, cm.CM_GEI_BOXINFO) == cm.CMBOXINFO(3, 7, 0, "virtual", "Desk", True)
    assert cm.CmGetInfo(handle, cm.CM_GEI_ENTRYINFO) == cm.CMENTRYINFO(
        FIRM, "Chart Works", 4, UNITS, 2, "Units", cm.CM_ACCESS_USERLIMIT
    )
    data = cm.CmGetInfo(handle, cm.CM_GEI_ENTRYDATA)
    assert isinstance(data, cm.CMENTRYDATA)
    assert (data.protected_data, data.user_data, data.feature_map) == (b"theirs", b"ours", 0b101)
    assert (data.license_quantity, data.license_quantity_flags) == (9, 4)
    assert (data.expiration_time, data.valid_until, data.activation_time) == (FAR, FAR, None)
    assert data.maintenance_period == (RELEASES.start, RELEASES.end)
    assert data.units_given == 10
    clocks = cm.CmGetInfo(handle, cm.CM_GEI_BOXTIME)
    assert isinstance(clocks, cm.CMBOXTIME)
    assert (clocks.certified_time, clocks.box_time) == (None, None)
    assert abs(clocks.system_time - time.time()) < LIMIT
    system = cm.CmGetInfo(handle, cm.CM_GEI_SYSTEM)
    assert isinstance(system, cm.CMSYSTEM)
    assert (system.address, system.software) == (address(desk), "cmserverd")
    version = cm.CmGetInfo(handle, cm.CM_GEI_VERSION)
    assert isinstance(version, cm.CMVERSION)
    assert version.text.startswith(f"{version.major}.{version.minor}.{version.build}")


def test_who_holds_what() -> None:
    """The counts, the accesses with the name that the credential gave, and the handle's own credential."""
    handle = of(UNITS, credential=cm.CMCREDENTIAL(user_defined_text="Chart Processing"))
    of(UNITS, cm.CM_ACCESS_STATIONSHARE)
    of(CHARTS)
    assert cm.CmGetInfo(handle, cm.CM_GEI_NETINFO_CLUSTER) == (
        cm.CMNETINFOCLUSTER(7, 3, 2, FIRM, UNITS, 0b101, 1, 0, 0, 1, 2, 7, 9, 9),
    )
    users = cm.CmGetInfo(handle, cm.CM_GEI_NETINFO_USER)
    assert isinstance(users, tuple)
    first = users[0]
    assert isinstance(first, cm.CMNETINFOUSER)
    assert (first.serial_number, first.box_mask, first.product_code, first.feature_map) == (7, 3, UNITS, 0b101)
    assert (first.access_mode, first.client_ip) == (cm.CM_ACCESS_USERLIMIT, "127.0.0.1")
    assert len(users) == 2
    extended = cm.CmGetInfo(handle, cm.CM_GEI_NETINFO_USER_EXT)
    assert isinstance(extended, tuple)
    one, two = extended
    assert isinstance(one, cm.CMNETINFOUSER_EXT)
    assert isinstance(two, cm.CMNETINFOUSER_EXT)
    assert one.id == first.id
    assert two.ctrl == cm.CM_ACCESS_STATIONSHARE
    assert one.client_address.startswith("127.0.0.1(")
    assert (one.credential.pid, one.credential.user_defined_text) == (os.getpid(), "Chart Processing")
    assert one.credential.expiration_time == FAR
    assert one.credential.session != two.credential.session
    assert cm.CmGetInfo(handle, cm.CM_GEI_CREDENTIAL) == one.credential
    everything = cm.CmGetInfo(cm.CmAccess2(cm.CM_ACCESS_LOCAL, cm.CMACCESS2()), cm.CM_GEI_NETINFO_CLUSTER)
    assert isinstance(everything, tuple)
    assert len(everything) == 3


@pytest.mark.parametrize("option", [cm.CM_GEI_BOXSTATUS, cm.CM_GEI_BOXTIME | cm.CM_GEI_USELOCALTIME, 0x1000001, -1])
def test_another_option_is_refused(option: int) -> None:
    """By its number, and its name if it has one."""
    assert cm.CmGetInfo(of(CHARTS), option) is None
    assert cm.CmGetLastErrorCode() == ErrorNumber.NOT_SUPPORTED
    assert f"{option:#x}" in cm.CmGetLastErrorText()


def test_containers_and_servers(desk: Daemon, rack: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual container is where the field has its soft licenses; servers are those of the configuration."""
    handle = of(CHARTS)
    box = (cm.CMBOXINFO(3, 7, 0, "virtual", "Desk", True),)
    assert cm.CmGetBoxes(handle) == cm.CmGetBoxes(handle, cm.CM_GB_ACT | cm.CM_GB_USB) == box
    assert cm.CmGetBoxes(handle, cm.CM_GB_USB) == cm.CmGetBoxes(handle, 8) == ()
    assert cm.CmGetLastErrorCode() == ErrorNumber.INVALID_PARAMETER
    assert cm.CmGetServers() == cm.CmGetServers(cm.CM_GS_REMOTE_SERVERS_ONLY) == (address(rack),)
    assert cm.CmGetServers(cm.CM_GS_ALL_SERVERS) == (address(desk), address(rack))
    assert cm.CmGetServers(cm.CM_GS_NAME) == ()
    assert cm.CmGetLastErrorCode() == ErrorNumber.NOT_SUPPORTED
    monkeypatch.setenv("CMSERVERD_SERVER", address(desk))
    assert cm.CmGetServers() == ()
    assert cm.CmGetLastErrorCode() == ErrorNumber.SERVER_NOT_FOUND


# --- CmCrypt2 -----------------------------------------------------------------------------------------------------


def test_a_proof_and_its_units() -> None:
    """With the licensor's key it is verified, without it the answer is as it came; units are taken once for a key."""
    handle = of(UNITS)
    licensor = keys.public_of(LICENSOR)
    answer = cm.CmCrypt2(handle, cm.CMCRYPT2(nonce=b"n" * 16, licensor=licensor))
    assert answer is not None, cm.CmGetLastErrorText()
    assert answer.proven is not None
    assert (answer.proven.container, answer.proven.item, answer.units_left, answer.usage_start) == ("3-7", 2, 10, None)
    again = cm.CMCRYPT2(encryption_code_options=3 | cm.CM_CRYPT_SAUSERLIMIT, key=b"k" * 16)
    for _ in range(2):
        raw = cm.CmCrypt2(handle, again)
        assert raw is not None
        assert (raw.proven, raw.units_left, len(raw.nonce)) == (None, 7, 32)
        question = Crypt(raw.handle, raw.nonce, 3, AccessKey(b"k" * 16))
        answered = CryptAnswer(raw.message, raw.signature, raw.firm_item, raw.firm_signature)
        assert proof.check(answered, question, HANDLES.get(handle).access.request, licensor).item == 2
    for crypt, number in (
        (cm.CMCRYPT2(licensor=keys.public_of(keys.generate())), 308),
        (cm.CMCRYPT2(encryption_code_options=8), 33),
        (cm.CMCRYPT2(encryption_code_options=cm.CM_CRYPT_SAEXCLUSIVE), 69),
        (cm.CMCRYPT2(encryption_code_options=cm.CM_CRYPT_SAEXCLUSIVE | cm.CM_CRYPT_SAUSERLIMIT), 105),
        (cm.CMCRYPT2(encryption_code_options=cm.CM_CRYPT_CERTTIME), 306),
        (cm.CMCRYPT2(ctrl=0), 306),
        (cm.CMCRYPT2(ctrl=0xB), 306),
        (cm.CMCRYPT2(nonce=b"short"), 105),
    ):
        assert cm.CmCrypt2(handle, crypt) is None
        assert cm.CmGetLastErrorCode() == number, cm.CmGetLastErrorText()
