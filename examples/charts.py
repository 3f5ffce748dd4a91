"""A licensed application, small but whole: it runs as long as it has its license.

    python -m examples.charts [--server ADDRESS] [--station NAME]

It asks for a StationShare handle of "Chart Processing" (Firm Code 600010, Product Code 14), says what it got, and works
until a line arrives on its standard input. If the license is taken away meanwhile, it is told at once and stops.
Exit codes: 0 worked, 1 no license, 2 the license was taken away.
"""

from __future__ import annotations

import argparse
import sys

from protocol.blocking import Access, Client
from protocol.errors import LicenseError, SettingError
from protocol.terms import AccessMode, Station

FIRM_CODE = 600010
PRODUCT_CODE = 14


def main() -> int:
    """Run the application; return its exit code."""
    parser = argparse.ArgumentParser(description="A sample licensed application.")
    parser.add_argument("--server", help="the license server (default: as every client here asks)")
    parser.add_argument("--station", help="pretend to be this machine (default: the machine that this is)")
    given = parser.parse_args()
    station = Station(given.station) if given.station else None
    try:
        with (
            Client(given.server, application="Chart Processing", station=station) as client,
            client.access(FIRM_CODE, PRODUCT_CODE, AccessMode.STATION_SHARE) as access,
        ):
            return work(access)
    except LicenseError as refusal:
        print(f"no license: {refusal}", flush=True)
        for reason in refusal.reasons:
            print(f"  container {reason.container}, item {reason.item}: {reason.text}", flush=True)
        return 1
    except SettingError as fault:
        print(f"no license: {fault}", flush=True)
        return 1


def work(access: Access) -> int:
    """Draw charts until a line arrives, or until the license is gone."""
    print(f"licensed: handle {access.handle} from container {access.container}", flush=True)
    sys.stdin.readline()
    if access.ended is not None:
        print(f"the license was taken away: {access.ended}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
