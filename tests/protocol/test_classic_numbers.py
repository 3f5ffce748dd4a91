"""The classic constants, against the numbers of the field, typed here a second time."""

from __future__ import annotations

from protocol.classic import constants

ACCESS = """
LOCAL 0, LAN 1, LOCAL_LAN 2, LAN_LOCAL 3, LANWAN 0x11, LOCAL_LANWAN 0x12, LANWAN_LOCAL 0x13, CMDMASK 0x13,
USERLIMIT 0x000, NOUSERLIMIT 0x100, EXCLUSIVE 0x200, STATIONSHARE 0x300, CONVENIENT 0x400, STRUCTMASK 0x700,
FORCE 0x10000, CHECK_FSB 0x20000, CHECK_CTSB 0x40000, SUBSYSTEM 0x80000, FIRMITEM 0x100000,
BORROW_ACCESS 0x1000000, BORROW_RELEASE 0x2000000, BORROW_VALIDATE 0x4000000, BORROW_IGNORESTATE 0x8000000,
IGNORE_LINGERTIME 0x10000000
"""
GEI = """
BOXCONTROL 0x00, BOXINFO 0x01, BOXSECURITY 0x02, BOXTIME 0x03, ENTRYDATA 0x04,
ENTRYINFO 0x05, INTERNALENTRYINFO 0x06, MEMINFO 0x07, SIGNEDLIST 0x08, SIGNEDTIME 0x09,
SYSTEM 0x0A, VERSION 0x0B, ENABLEBLOCKITEMS 0x0C, ENABLELOOKUPITEMS_FI 0x0D, ENABLELOOKUPITEMS_PI 0x0E,
CHIPINFO 0x0F, BOXSTATUS 0x10, USBCHIPINFO 0x11, NETINFO_CLUSTER 0x12, NETINFO_USER 0x13,
CREDENTIAL 0x14, SECURITYVERSION 0x15, NETINFO_USER_EXT 0x16, MEMINFO2 0x17, ACT_LICENSE_INFO 0x18,
ACT_ERROR_INFO 0x19, CMACTVERSION 0x20, BORROWCLIENT 0x30, BORROWDATA 0x31, BORROWITEMS 0x32,
ENTRYINFO2 0x33, ENABLEINFO 0x34, ACT_LICENSE_INFO2 0x35, SYSTEMSTATUS 0x36, COMMUNICATION 0x37,
LTHISTORY 0x38, LTTRANSFEROPTIONS 0x39, CMDMASK 0xFF, USELOCALTIME 0x1000, INDEXMASK 0xFF000000
"""
GB = "ALLPORTS 0, DONGLE 1, USB 1, SIM 2, ACT 4"
GS = """
LIST 0, SINGLE_FIRST 1, SINGLE 2, IPADDR 0, NAME 0x10, ALL_SERVERS 0x20, REMOTE_SERVERS_ONLY 0x40,
IPADDR_IPv6MAPPED 0x80, INCLUDE_CMWAN_SERVERS 0x100
"""
CRYPT = """
MPREQUIRED 0x100000, CERTTIME 0x800000, FACDECREMENT 0x400000,
SAEXCLUSIVE 0x80000, SAUSERLIMIT 0x40000, SASTATIONSHARE 0x20000, SAUNLIMITED 0
"""


def table(family: str, text: str) -> dict[str, int]:
    """Return the constants of a family: their full names and numbers."""
    pairs = (pair.split() for pair in text.split(","))
    return {f"CM_{family}_{name}": int(number, 0) for name, number in pairs}


def test_every_number_is_the_fields() -> None:
    """No constant has another number, none is missing, and there is nothing else."""
    families = {"ACCESS": ACCESS, "GEI": GEI, "GB": GB, "GS": GS, "CRYPT": CRYPT}
    expected = {name: number for family, text in families.items() for name, number in table(family, text).items()}
    named = {name: value for name, value in vars(constants).items() if not name.startswith("__")}
    assert named == expected
