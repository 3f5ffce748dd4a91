"""The field's own idiom over the blocking client, for applications that are ported: see `docs/classic.md`.

    handle = CmAccess2(CM_ACCESS_LOCAL_LAN | CM_ACCESS_STATIONSHARE, CMACCESS2(firm_code=600010, product_code=14))

Handles are numbers, 0 is an error, and each thread has its last error. Nothing here raises for what the server says.
"""

from protocol.classic.calls import CmAccess2 as CmAccess2
from protocol.classic.calls import CmCrypt2 as CmCrypt2
from protocol.classic.calls import CmGetBoxes as CmGetBoxes
from protocol.classic.calls import CmGetInfo as CmGetInfo
from protocol.classic.calls import CmGetServers as CmGetServers
from protocol.classic.calls import CmRelease as CmRelease
from protocol.classic.constants import *  # noqa: F403 - a hundred names, which that module is for
from protocol.classic.last_error import CmGetLastErrorCode as CmGetLastErrorCode
from protocol.classic.last_error import CmGetLastErrorText as CmGetLastErrorText
from protocol.classic.records import CMACCESS2 as CMACCESS2
from protocol.classic.records import CMBOXINFO as CMBOXINFO
from protocol.classic.records import CMBOXTIME as CMBOXTIME
from protocol.classic.records import CMCREDENTIAL as CMCREDENTIAL
from protocol.classic.records import CMCRYPT2 as CMCRYPT2
from protocol.classic.records import CMENTRYDATA as CMENTRYDATA
from protocol.classic.records import CMENTRYINFO as CMENTRYINFO
from protocol.classic.records import CMNETINFOCLUSTER as CMNETINFOCLUSTER
from protocol.classic.records import CMNETINFOUSER as CMNETINFOUSER
from protocol.classic.records import CMNETINFOUSER_EXT as CMNETINFOUSER_EXT
from protocol.classic.records import CMPROOF as CMPROOF
from protocol.classic.records import CMSYSTEM as CMSYSTEM
from protocol.classic.records import CMVERSION as CMVERSION
