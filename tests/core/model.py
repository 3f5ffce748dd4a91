"""A naive license server to compare the real one with: flat lists, and everything counted anew at each question.

It shares no code with the core and has none of its indexes: no allocations, no holdings, no ghosts, no counts. What
an access takes follows from the list of the live accesses alone. It is slow, and short enough to be read and believed.

Where the rules determine the answer (granted or refused, the number, the reasons) it says which; where they leave
freedom (who is moved where when a container changes) it judges the answer that was given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from drivers.container import Container, ProductItem, QuantityFlag
from protocol.errors import ErrorNumber
from protocol.messages import Access as Request
from protocol.messages import EndCause
from protocol.terms import AccessMode, HandleKind, Station

DENIAL = {
    AccessMode.USER_LIMIT: QuantityFlag.DENY_USER_LIMIT,
    AccessMode.NO_USER_LIMIT: QuantityFlag.DENY_NO_USER_LIMIT,
    AccessMode.EXCLUSIVE: QuantityFlag.DENY_EXCLUSIVE,
    AccessMode.STATION_SHARE: QuantityFlag.DENY_STATION_SHARE,
}

Entry = tuple[str, int, int]
"""Names an entry: container, firm code, item."""

Outcome = dict[int, Entry | EndCause | None]
"""What became of each handle: the entry it is booked on now, none for other kinds of handle, or why it ended."""

Why = tuple[ErrorNumber, EndCause | None, tuple[tuple[str, int, int, int, int], ...]]
"""A refusal: its number, its cause, and for each entry that was tried container, firm, product, item and number."""


@dataclass(eq=False)
class Box:
    """A container."""

    contents: Container
    present: bool = True

    def turn(self) -> tuple[int, ...]:
        """Return when its turn is: by mask, then by serial."""
        return tuple(map(int, self.contents.id.split("-")))


@dataclass(eq=False)
class Client:
    """A session. `state` is attached, closed or silent; `ended` is what the server ended, by key."""

    number: int
    station: Station
    application: str
    address: str
    local: bool
    state: str = "attached"
    ended: dict[bytes, tuple[int, EndCause]] = field(default_factory=dict)


@dataclass(eq=False)
class Hold:
    """A live access: who asked for what, and for an entry handle which entry serves it."""

    handle: int
    client: Client
    request: Request
    entry: Entry | None
    container: str | None
    first: int
    last: int


class Model:
    """The state of the naive server."""

    def __init__(self, handles: int, sessions_per_address: int) -> None:
        self.handles = handles
        self.sessions_per_address = sessions_per_address
        self.starting = True
        self.boxes: dict[str, Box] = {}
        self.clients: list[Client] = []
        self.holds: list[Hold] = []

    # what there is

    def item(self, entry: Entry) -> ProductItem | None:
        """Return the options of an entry, if it is there."""
        box = self.boxes.get(entry[0])
        for firm_item in box.contents.firm_items if box else ():
            for item in firm_item.products:
                if (firm_item.firm_code, item.reference) == entry[1:]:
                    return item
        return None

    def options(self, entry: Entry) -> ProductItem:
        """Return the options of an entry that is there."""
        item = self.item(entry)
        assert item is not None
        return item

    def entries(self, firm_code: int, product_code: int) -> list[Entry]:
        """Return the entries of a product in the order in which they serve: by container, then as they lie in it."""
        return [
            (box.contents.id, firm_item.firm_code, item.reference)
            for box in sorted(self.boxes.values(), key=Box.turn)
            for firm_item in box.contents.firm_items
            for item in firm_item.products
            if (firm_item.firm_code, item.product_code) == (firm_code, product_code)
        ]

    def used(self, entry: Entry, holds: Collection[Hold]) -> int:
        """Count the licenses of an entry that these accesses take: the whole of section 4."""
        if self.options(entry).quantity == 0:
            return 0
        here = [hold for hold in holds if hold.entry == entry]
        each = [hold for hold in here if hold.request.mode in (AccessMode.USER_LIMIT, AccessMode.EXCLUSIVE)]
        stations = {hold.client.station for hold in here if hold.request.mode is AccessMode.STATION_SHARE}
        return len(each) + len(stations)

    def takes(self, entry: Entry, mode: AccessMode) -> bool:
        """Whether an access in this mode takes a license of an entry."""
        return mode is not AccessMode.NO_USER_LIMIT and self.options(entry).quantity > 0

    # who can be served by what

    def hidden(self, entry: Entry, request: Request, client: Client) -> bool:
        """Whether an entry does not exist for a request."""
        item = self.options(entry)
        return (
            (not client.local and (item.quantity == 0 or QuantityFlag.LOCAL_ONLY in item.flags))
            or (request.container is not None and request.container != entry[0])
            or (request.item is not None and request.item != entry[2])
        )

    def misfit(self, entry: Entry, request: Request) -> ErrorNumber | None:
        """Return what in an entry's options does not suit a request."""
        item = self.options(entry)
        if item.unusable:
            return ErrorNumber.PRODUCT_ITEM_INVALID
        if DENIAL[request.mode] in item.flags:
            return ErrorNumber.WRONG_ACCESS_MODE
        wanted = {bit for bit in range(32) if request.feature_code >> bit & 1}
        if wanted and item.feature_map is None:
            return ErrorNumber.FEATURE_MAP_MISSING
        if wanted and not wanted <= {bit for bit in range(32) if (item.feature_map or 0) >> bit & 1}:
            return ErrorNumber.FEATURE_MAP_INCOMPATIBLE
        return None

    def obstacle(self, entry: Entry, request: Request, client: Client) -> ErrorNumber | None:
        """Return why an entry cannot serve a request even with a license free; None if it can."""
        if self.hidden(entry, request, client):
            return ErrorNumber.ENTRY_NOT_FOUND
        if not self.boxes[entry[0]].present:
            return ErrorNumber.BOX_LOST
        return self.misfit(entry, request)

    def free(self, entry: Entry, mode: AccessMode, holds: Collection[Hold]) -> bool:
        """Whether an entry has a license left for one more allocation."""
        return not self.takes(entry, mode) or self.used(entry, holds) < self.options(entry).quantity

    def own(self, request: Request, client: Client, holds: Iterable[Hold]) -> list[Hold]:
        """Return what the client's station has of the product."""
        return [
            hold
            for hold in holds
            if hold.entry is not None
            and hold.client.station == client.station
            and (hold.request.firm_code, hold.request.product_code) == (request.firm_code, request.product_code)
        ]

    def conflict(self, request: Request, client: Client, holds: Collection[Hold]) -> bool:
        """Whether an exclusive access stands in the way, or the request is one and something else does."""
        own = self.own(request, client, holds)
        return (
            bool(own)
            if request.mode is AccessMode.EXCLUSIVE
            else any(hold.request.mode is AccessMode.EXCLUSIVE for hold in own)
        )

    def joinable(self, request: Request, client: Client, holds: Collection[Hold]) -> list[Entry]:
        """Return the entries on which the station has a share that satisfies the request, unplugged or not."""
        if request.mode is not AccessMode.STATION_SHARE:
            return []
        return [
            hold.entry
            for hold in self.own(request, client, holds)
            if hold.entry is not None
            and hold.request.mode is AccessMode.STATION_SHARE
            and not self.hidden(hold.entry, request, client)
            and self.misfit(hold.entry, request) is None
        ]

    def places(self, request: Request, client: Client, holds: Collection[Hold]) -> list[Entry]:
        """Return where a request is booked if these are the live accesses: any of the own shares, or one free entry."""
        if self.conflict(request, client, holds):
            return []
        return (
            self.joinable(request, client, holds)
            or [
                entry
                for entry in self.entries(request.firm_code, request.product_code)
                if self.obstacle(entry, request, client) is None and self.free(entry, request.mode, holds)
            ][:1]
        )

    # asking for an access

    def held(self, client: Client, key: bytes) -> Hold | None:
        """Return what a client holds under a key."""
        return next((hold for hold in self.holds if hold.client is client and hold.request.key == key), None)

    def hold(self, handle: int) -> Hold:
        """Return a live access."""
        return next(hold for hold in self.holds if hold.handle == handle)

    def handles_of(self, client: Client) -> list[int]:
        """Return the handles that a client holds."""
        return [hold.handle for hold in self.holds if hold.client is client]

    def refusal(self, client: Client, request: Request) -> Why | None:
        """Return how a request must be refused; None if it must be granted."""
        if hold := self.held(client, request.key):
            return None if _alike(hold.request, request) else (ErrorNumber.INVALID_PARAMETER, None, ())
        if request.key in client.ended:
            return ErrorNumber.INVALID_HANDLE, client.ended[request.key][1], ()
        if len(self.handles_of(client)) >= self.handles:
            return ErrorNumber.NO_MORE_HANDLES, None, ()
        if request.kind is not HandleKind.ENTRY:
            return self.reference_refusal(request)
        if self.places(request, client, self.holds) or self.ghosts_help(client, request):
            return None
        return self.entry_refusal(client, request)

    def entry_refusal(self, client: Client, request: Request) -> Why:
        """Return which number, and what was tried (decision 11)."""
        tried = [
            entry
            for entry in self.entries(request.firm_code, request.product_code)
            if not self.hidden(entry, request, client)
        ]
        if not tried:
            unknown = request.container is not None and request.container not in self.boxes
            number = ErrorNumber.BOX_NOT_FOUND if unknown else ErrorNumber.ENTRY_NOT_FOUND
            return (ErrorNumber.SERVER_STARTING if self.starting else number), None, ()
        if self.conflict(request, client, self.holds):
            numbers = [ErrorNumber.EXCLUSIVE_CONFLICT for _ in tried]
        else:
            numbers = [self.obstacle(entry, request, client) or ErrorNumber.NO_MORE_LICENSES for entry in tried]
        reasons = tuple(
            (entry[0], entry[1], request.product_code, entry[2], int(number))
            for entry, number in zip(tried, numbers, strict=True)
        )
        if self.starting and ErrorNumber.EXCLUSIVE_CONFLICT not in numbers:
            return ErrorNumber.SERVER_STARTING, None, reasons
        if ErrorNumber.NO_MORE_LICENSES in numbers:
            return ErrorNumber.NO_MORE_LICENSES, None, reasons
        return (numbers[0] if len(set(numbers)) == 1 else ErrorNumber.SEVERAL_REASONS), None, reasons

    def targets(self, request: Request) -> list[Box]:
        """Return the containers that a handle of another kind can be on, present or not."""
        return [
            box
            for box in sorted(self.boxes.values(), key=Box.turn)
            if request.container in (None, box.contents.id)
            and (
                (request.kind is HandleKind.CONTAINER and request.firm_code == 0)
                or request.firm_code in [firm_item.firm_code for firm_item in box.contents.firm_items]
            )
        ]

    def reference_refusal(self, request: Request) -> Why | None:
        """Return how a request for a handle of another kind must be refused."""
        targets = self.targets(request)
        if request.kind is HandleKind.SUBSYSTEM or any(box.present for box in targets):
            return None
        if self.starting:
            return ErrorNumber.SERVER_STARTING, None, ()
        if targets:
            return ErrorNumber.BOX_LOST, None, ()
        named = self.boxes if request.container is None else {request.container} & self.boxes.keys()
        return (ErrorNumber.ENTRY_NOT_FOUND if named else ErrorNumber.BOX_NOT_FOUND), None, ()

    def granted(self, client: Client, request: Request, handle: int, now: int, where: Entry | str | None) -> None:
        """Take in a new access, if it may be booked there."""
        if request.kind is HandleKind.ENTRY:
            assert isinstance(where, tuple)
            assert where in self.places(request, client, self.holds), "booked on a license that was not the choice"
            self.holds.append(Hold(handle, client, request, where, where[0], now, now))
        else:
            assert not isinstance(where, tuple)
            here = [box.contents.id for box in self.targets(request) if box.present]
            assert where == (None if request.kind is HandleKind.SUBSYSTEM else here[0])
            self.holds.append(Hold(handle, client, request, None, where, now, now))

    # ghosts (decision 12)

    def ghosts(self, client: Client, request: Request) -> list[Hold]:
        """Return the accesses of the product that crashed instances of the application left, oldest first."""
        return [
            hold
            for hold in sorted(self.own(request, client, self.holds), key=lambda hold: hold.handle)
            if hold.client.state == "closed" and hold.client.application == client.application
        ]

    def places_without(self, client: Client, request: Request, gone: Collection[Hold]) -> bool:
        """Whether a request would find a place if these accesses were not there."""
        return bool(self.places(request, client, [hold for hold in self.holds if hold not in gone]))

    def ghosts_help(self, client: Client, request: Request) -> bool:
        """Whether a request that finds no place would find one without the ghosts."""
        return self.places_without(client, request, self.ghosts(client, request))

    def superseded(self, client: Client, request: Request, handles: Collection[int]) -> None:
        """Take in that ghosts were ended for a request: no more than needed, and no older ones would have done."""
        ghosts = self.ghosts(client, request)
        gone = [hold for hold in ghosts if hold.handle in handles]
        assert len(gone) == len(handles), "only ghosts are ended"
        if gone:
            assert not self.places_without(client, request, []), "nothing is ended for what is granted anyway"
            assert self.places_without(client, request, gone), "nothing is ended in vain"
            for hold in gone:
                fewer = [one for one in gone if one is not hold]
                assert not self.places_without(client, request, fewer), "no more are ended than needed"
            for older in ghosts[: ghosts.index(gone[0])]:
                share = [one for one in ghosts if one is older or self._share(one, older)]
                assert not self.places_without(client, request, share), "the oldest go first"
        for hold in gone:
            self.end(hold, EndCause.SUPERSEDED)

    def _share(self, one: Hold, other: Hold) -> bool:
        """Whether two accesses of one station share an allocation."""
        return one.entry == other.entry and one.request.mode is other.request.mode is AccessMode.STATION_SHARE

    def end(self, hold: Hold, cause: EndCause | None) -> None:
        """Take in that an access is over."""
        self.holds.remove(hold)
        if cause is not None:
            hold.client.ended[hold.request.key] = (hold.handle, cause)

    # sessions

    def client(self, number: int) -> Client:
        """Return a session."""
        return next(client for client in self.clients if client.number == number)

    def resumed(self, client: Client, address: str, local: bool) -> None:
        """Take in that a client is back; from elsewhere it may not keep what is for the server's machine only."""
        client.state, client.address, client.local = "attached", address, local
        for hold in [hold for hold in self.holds if hold.client is client]:
            if hold.entry is not None and self.hidden(hold.entry, hold.request, client):
                self.end(hold, EndCause.NOT_LOCAL)

    def crowded(self, address: str) -> bool:
        """Whether an address has as many sessions as it may."""
        return len([client for client in self.clients if client.address == address]) >= self.sessions_per_address

    def closed(self, client: Client) -> None:
        """Take in that a session is over."""
        self.holds = [hold for hold in self.holds if hold.client is not client]
        self.clients.remove(client)

    def refusal_of_handle(self, client: Client, handle: int) -> Why | None:
        """Return how the use of a handle must be refused; None if it is the client's."""
        if handle in self.handles_of(client):
            return None
        causes = [cause for number, cause in client.ended.values() if number == handle]
        return ErrorNumber.INVALID_HANDLE, (causes[0] if causes else None), ()

    # containers

    def missed(self, container: str) -> None:
        """Take in that a container was unplugged just now."""
        self.boxes[container].present = False

    def plugged(self, contents: Container, outcome: Outcome) -> None:
        """Take in what a container holds now, and what became of each access: the entry it is on, or why it ended."""
        before = self._items()
        self.boxes[contents.id] = Box(contents)
        firm_codes = [firm_item.firm_code for firm_item in contents.firm_items]
        references = {
            hold.handle
            for hold in self.holds
            if hold.container == contents.id
            and hold.request.kind is HandleKind.FIRM_ITEM
            and hold.request.firm_code not in firm_codes
        }
        self._changed(before, outcome, EndCause.REPROGRAMMED, references)

    def unplugged(self, container: str, outcome: Outcome) -> None:
        """Take in that a container is gone for good, and what became of each access."""
        before = self._items()
        del self.boxes[container]
        references = {hold.handle for hold in self.holds if hold.container == container and hold.entry is None}
        self._changed(before, outcome, EndCause.CONTAINER_GONE, references)

    def _items(self) -> dict[Entry, ProductItem]:
        """Return all entries and their options."""
        return {
            (box.contents.id, firm_item.firm_code, item.reference): item
            for box in self.boxes.values()
            for firm_item in box.contents.firm_items
            for item in firm_item.products
        }

    def _changed(
        self, items: dict[Entry, ProductItem], outcome: Outcome, cause: EndCause, references: set[int]
    ) -> None:
        """Judge what became of the accesses when a container got other contents.

        `items` are the entries as they were, `references` the handles of other kinds that are to end.
        """
        before = {hold: hold.entry for hold in self.holds}
        fitting = [
            hold
            for hold, entry in before.items()
            if entry is not None and (self.item(entry) == items[entry] or self._still_fits(hold, entry))
        ]
        crowded = {
            entry
            for entry in {before[hold] for hold in fitting}
            if entry is not None and self.used(entry, fitting) > self.options(entry).quantity
        }
        gone = [hold for hold in before if isinstance(outcome[hold.handle], EndCause)]
        moved = [hold for hold in before if hold not in gone and outcome[hold.handle] != before[hold]]
        left = {before[hold] for hold in [*gone, *moved]}

        assert all(outcome[hold.handle] is cause for hold in gone), "the cause is told"
        assert {hold.handle for hold in gone if before[hold] is None} == references, "which other handles end"
        for hold, entry in before.items():
            if entry is not None and hold in [*gone, *moved]:
                assert hold not in fitting or entry in crowded, "what still fits, and has room, is left alone"
            else:
                assert entry is None or hold in fitting, "what does not fit any more does not stay"

        for hold in moved:  # from here on the accesses are where they are now
            place = outcome[hold.handle]
            assert isinstance(place, tuple)
            hold.entry, hold.container = place, place[0]
        for hold in gone:
            self.end(hold, cause)
        for entry in crowded:
            assert self.used(entry, self.holds) == self.options(entry).quantity, "no more leave than must"
        for hold in moved:
            assert hold.entry is not None
            assert self._still_fits(hold, hold.entry), "what was asked holds wherever an access is booked"
            shares = self.joinable(hold.request, hold.client, [one for one in before if one not in gone + moved])
            stays = [share for share in shares if share not in left]
            assert hold.entry in stays or not stays, "the own share comes first"
            if not self._shared(hold):
                assert self.boxes[hold.entry[0]].present, "what is away takes no new allocation"
                self._nothing_free(hold, left, hold.entry)
        for hold in gone:
            if before[hold] is not None:
                self._nothing_free(hold, left)
                shares = self.joinable(hold.request, hold.client, self.holds)
                assert left.issuperset(shares), "who has a share that satisfies him keeps his access"

    def _still_fits(self, hold: Hold, entry: Entry) -> bool:
        """Whether an entry, which may have changed or gone, could serve an access if there is room."""
        item = self.item(entry)
        return (
            item is not None
            and item.product_code == hold.request.product_code
            and not self.hidden(entry, hold.request, hold.client)
            and self.misfit(entry, hold.request) is None
        )

    def _shared(self, hold: Hold) -> bool:
        """Whether an access shares its allocation."""
        mates = [mate for mate in self.own(hold.request, hold.client, self.holds) if mate.entry == hold.entry]
        return hold.request.mode is AccessMode.STATION_SHARE and len(mates) > 1

    def _nothing_free(self, hold: Hold, left: set[Entry | None], before: Entry | None = None) -> None:
        """Judge that nothing is free for an access that had to leave, or nothing before the place that it got.

        Entries that others had to leave in the same passage do not count: who goes first is free to the server.
        """
        for entry in self.entries(hold.request.firm_code, hold.request.product_code):
            if entry == before:
                break
            if entry not in left and self.obstacle(entry, hold.request, hold.client) is None:
                assert not self.free(entry, hold.request.mode, self.holds), "what is free and fits is taken"


def _alike(one: Request, other: Request) -> bool:
    """Whether two requests ask for the same."""
    if one.kind is not other.kind:
        return False
    if one.kind is not HandleKind.ENTRY:  # these have neither a product nor a mode
        other = replace(other, product_code=one.product_code, mode=one.mode)
    return one == other
