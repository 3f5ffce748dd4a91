"""What an operator does to a container: fetches its request file for the licensor, brings the update that comes back.

An update names its container itself, so the page that took the file says which one it was for.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.daemon import is_silent
from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import choosing, containers, spelling
from cmserverd.webadmin.pages.choosing import NotUnderstood
from cmserverd.webadmin.pages.rendering import render
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Imported
from protocol.updating import LONGEST_UPDATE

REQUEST_TYPE: Final = "application/octet-stream"

_ADVICE: Final = {
    ErrorNumber.BOX_NOT_FOUND: "Plug in the CmContainer that the update is for, or take the file to its server.",
    ErrorNumber.BOX_LOST: "Plug the CmContainer in, and try again.",
    ErrorNumber.UPDATE_TOO_OLD: "The CmContainer has this update or a later one; if not, send a new request file.",
    ErrorNumber.UPDATE_TOO_NEW: "An update before this one is missing: apply that first, or send a new request file.",
    ErrorNumber.UPDATE_FAILED: "Choose the file as the licensor sent it, or ask for it again.",
}
"""What to do where the license server refuses; else its own words say it."""

UNCERTAIN: Final = (
    "The license server did not say whether it has applied the update. Look at the update counters below and at the "
    "events before you send the file again."
)
"""What is said where its answer did not come."""


async def request_file(request: Request, visit: Visit) -> Response:
    """Give the request file of a container, as a file to keep."""
    container = choosing.container(request.path_params["container"]) or ""
    time = (await request.form()).get("time") == "1"
    try:
        made = await visit.daemon.request_file(container, time=time, by=visit.who)
    except LicenseError as error:
        if is_silent(error):
            raise
        return await containers.show(request, visit, container, f"There is no request file: {_refused(error)}")
    name = f"{container}.time.request" if time else f"{container}.request"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(made.request, media_type=REQUEST_TYPE, headers=headers)


async def apply(request: Request, visit: Visit) -> Response:
    """Apply the update file that a form brings, and tell what it brought."""
    container = choosing.container(request.path_params["container"]) or ""
    file = (await request.form()).get("update")
    if not isinstance(file, UploadFile):
        raise NotUnderstood("the form brings no file; open the page again")
    octets = await file.read(LONGEST_UPDATE + 1)
    if problem := fault(octets):
        return await containers.show(request, visit, container, problem)
    try:
        done = await visit.daemon.import_update(octets, by=visit.who)
    except LicenseError as error:
        if is_silent(error):
            return await containers.show(request, visit, container, UNCERTAIN)
        return await containers.show(request, visit, container, f"The update was not applied: {_refused(error)}")
    where = "" if done.container == container else f" The file was not for {container}."
    return render(request, visit, "updated.html", said=f"{said(done)}{where}", back=f"/containers/{done.container}")


def fault(octets: bytes) -> str:
    """Say what is wrong with an update file before it is sent on; nothing if it may be one."""
    if not octets:
        return "No file was chosen, or it is empty: choose the update file that the licensor sent."
    if len(octets) > LONGEST_UPDATE:
        return f"This is no update file: it has more than {LONGEST_UPDATE:,} bytes. Choose what the licensor sent."
    return ""


def said(done: Imported) -> str:
    """Say what an update brought."""
    container = spelling.shown(done.container)
    if done.time:
        return f"CmContainer {container} has its certified time; it is {spelling.instant(done.time)} UTC now."
    return f"CmContainer {container} has the update: Firm Code {done.firm_code}, update counter {done.update_counter}."


def _refused(error: LicenseError) -> str:
    advice = _ADVICE.get(ErrorNumber(error.number)) if error.number in list(ErrorNumber) else None
    return f"{spelling.refusal(error)}. {advice}" if advice else f"{spelling.refusal(error)}."
