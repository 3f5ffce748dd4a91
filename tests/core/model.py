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
    """A live access: who asked for what, and for an entry handle which entry serves it.

    `ends` is when its maximum life is over, if it asked for one.
    """

    handle: int
    client: Client
    request: Request
    entry: Entry | None
    container: str | None
    first: int
    last: int
    ends: int


@dataclass(frozen=True)
class Left:
    """A license that was given back and lingers for a station, in the mode in which that held it, until a time."""

    entry: Entry
    station: Station
    mode: AccessMode
    until: int


@dataclass(eq=False)
class Out:
    """A loan: what a borrower has taken along of an entry. `station` and `host` are None if nobody knows them.

    `address` is from where it was borrowed first.
    """

    id: bytes
    entry: Entry
    number: int
    quantity: int
    end: int
    holder: bytes
    station: Station | None
    host: str | None
    address: str
    first: int
    later: int = 0

    def until(self) -> int:
        """Return when it is over: as much later as license time has leapt since."""
        return self.end + 60 + self.later


@dataclass(frozen=True)
class Taken:
    """All that can take licenses: live accesses, and what lingers, the newest last."""

    holds: list[Hold]
    lefts: list[Left]


class Model:
    """The state of the naive server. `now` is license time."""

    def __init__(self, handles: int, sessions_per_address: int) -> None:
        self.handles = handles
        self.sessions_per_address = sessions_per_address
        self.starting = True
        self.now = 0
        self.boxes: dict[str, Box] = {}
        self.clients: list[Client] = []
        self.holds: list[Hold] = []
        self.lefts: list[Left] = []
        self.loans: list[Out] = []
        self.converting: dict[
            int, tuple[str, bytes]
        ] = {}  # by handle: container and id of the loan that has its license
        self.held_off: list[tuple[Station, int, int, int]] = []

    @property
    def taken(self) -> Taken:
        """What takes licenses now."""
        return Taken(self.holds, self.lefts)

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

    def used(self, entry: Entry, taken: Taken) -> int:
        """Count the licenses of an entry that are taken: the whole of section 4."""
        return self.allocated(entry, taken) + self.out(entry)

    def out(self, entry: Entry) -> int:
        """Count the licenses of an entry that are with borrowers."""
        return sum(loan.quantity for loan in self.loans if loan.entry == entry)

    def room(self, entry: Entry) -> int:
        """Count the licenses of an entry that borrowers leave to others."""
        return max(self.options(entry).quantity - self.out(entry), 0)

    def allocated(self, entry: Entry, taken: Taken) -> int:
        """Count the licenses of an entry that are taken by clients."""
        if self.options(entry).quantity == 0:
            return 0
        here = [hold for hold in taken.holds if hold.entry == entry and hold.handle not in self.converting]
        each = [hold for hold in here if hold.request.mode in (AccessMode.USER_LIMIT, AccessMode.EXCLUSIVE)]
        stations = {hold.client.station for hold in here if hold.request.mode is AccessMode.STATION_SHARE}
        return len(each) + len(stations) + len([left for left in taken.lefts if left.entry == entry])

    def occupancy(self) -> int:
        """Count the licenses of all entries that are taken by clients."""
        entries = {hold.entry for hold in self.holds if hold.entry is not None} | {left.entry for left in self.lefts}
        return sum(self.allocated(entry, self.taken) for entry in entries)

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

    def shut(self, entry: Entry, request: Request) -> ErrorNumber | None:
        """Return why an entry is closed now: too old a server, too early, or a release date that it does not cover."""
        item = self.options(entry)
        if request.force:
            return None
        if item.minimum_runtime is not None and (item.minimum_runtime.major, item.minimum_runtime.minor) > (0, 1):
            return ErrorNumber.RUNTIME_TOO_OLD
        if self.now < (item.activation or 0):
            return ErrorNumber.ACTIVATION_UNDERRUN
        if item.maintenance is not None and request.release_date is not None:
            if request.release_date < item.maintenance.start:
                return ErrorNumber.MAINTENANCE_UNDERRUN
            if request.release_date not in range(item.maintenance.start, item.maintenance.end):
                return ErrorNumber.MAINTENANCE_OVERRUN
        return None

    def over(self, entry: Entry) -> ErrorNumber | None:
        """Return which end of an entry has come."""
        item = self.options(entry)
        if item.expiration is not None and not self.now < item.expiration:
            return ErrorNumber.EXPIRATION_OVERRUN
        if item.usage is not None and item.usage_start and self.now - item.usage_start >= item.usage.amount:
            return ErrorNumber.USAGE_PERIOD_OVERRUN
        return None

    def stale(self, entry: Entry, request: Request) -> ErrorNumber | None:
        """Return why an entry is not valid for a new access."""
        item = self.options(entry)
        if number := self.shut(entry, request):
            return number
        if request.force:
            return None
        if number := self.over(entry):
            return number
        if item.units is not None and item.units.amount - item.units_used <= 0:
            return ErrorNumber.UNIT_COUNTER_ZERO
        return None

    def untrusted(self, request: Request) -> list[str]:
        """Return the containers whose firm item may have what is asked for, if only it could be trusted."""
        return [
            box.contents.id
            for box in sorted(self.boxes.values(), key=Box.turn)
            if request.container in (None, box.contents.id)
            for firm_item in box.contents.firm_items
            if firm_item.firm_code == request.firm_code and firm_item.unusable
        ]

    def obstacle(self, entry: Entry, request: Request, client: Client) -> ErrorNumber | None:
        """Return why an entry cannot serve a request even with a license free; None if it can."""
        if self.hidden(entry, request, client):
            return ErrorNumber.ENTRY_NOT_FOUND
        if not self.boxes[entry[0]].present:
            return ErrorNumber.BOX_LOST
        return self.misfit(entry, request) or self.stale(entry, request)

    def free(self, entry: Entry, mode: AccessMode, taken: Taken) -> bool:
        """Whether an entry has a license left for one more allocation."""
        return not self.takes(entry, mode) or self.used(entry, taken) < self.options(entry).quantity

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
            and self.satisfies(hold.entry, request, client)
        ]

    def satisfies(self, entry: Entry, request: Request, client: Client) -> bool:
        """Whether what the station has of an entry is what a request wants, unplugged or not."""
        return (
            not self.hidden(entry, request, client)
            and self.misfit(entry, request) is None
            and self.stale(entry, request) is None
        )

    def left_over(self, request: Request, client: Client, lefts: Collection[Left]) -> list[Left]:
        """Return what lingers for the station and would do for a request, the newest last."""
        product = self.entries(request.firm_code, request.product_code)
        return [
            left
            for left in lefts
            if left.entry in product
            and (left.station, left.mode) == (client.station, request.mode)
            and self.satisfies(left.entry, request, client)
        ]

    def places(self, request: Request, client: Client, taken: Taken) -> list[Entry]:
        """Return where a request is booked if this is taken: any of the own shares, what lingers, or one free entry."""
        if self.conflict(request, client, taken.holds):
            return []
        if shares := self.joinable(request, client, taken.holds):
            return self.staying(shares, client.station)
        return [left.entry for left in self.left_over(request, client, taken.lefts)][-1:] or [
            entry
            for entry in self.entries(request.firm_code, request.product_code)
            if self.obstacle(entry, request, client) is None and self.free(entry, request.mode, taken)
        ][:1]

    def staying(self, shares: list[Entry], station: Station) -> list[Entry]:
        """Return the shares of a station that it does not take along."""
        return [entry for entry in shares if not self.taken_along(entry, station)]

    def taken_along(self, entry: Entry, station: Station) -> bool:
        """Whether all that a station shares of an entry is one access that is becoming a loan."""
        mates = [
            hold.handle
            for hold in self.holds
            if (hold.entry, hold.client.station, hold.request.mode) == (entry, station, AccessMode.STATION_SHARE)
        ]
        return len(mates) == 1 and mates[0] in self.converting

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
            return _ended(client.ended[request.key][1])
        if len(self.handles_of(client)) >= self.handles:
            return ErrorNumber.NO_MORE_HANDLES, None, ()
        if request.kind is not HandleKind.ENTRY:
            return self.reference_refusal(request)
        if self.held_back(client, request):
            return ErrorNumber.ACCESS_DENIED, None, ()
        shares = self.joinable(request, client, self.holds)
        if shares and not self.staying(shares, client.station):
            return ErrorNumber.BOX_BUSY, None, ()
        if self.places(request, client, self.taken) or self.ghosts_help(client, request):
            return None
        return self.entry_refusal(client, request)

    def entry_refusal(self, client: Client, request: Request) -> Why:
        """Return which number, and what was tried (decision 11)."""
        tried = [
            entry
            for entry in self.entries(request.firm_code, request.product_code)
            if not self.hidden(entry, request, client)
        ]
        untrusted = self.untrusted(request)
        if not tried and not untrusted:
            unknown = request.container is not None and request.container not in self.boxes
            number = ErrorNumber.BOX_NOT_FOUND if unknown else ErrorNumber.ENTRY_NOT_FOUND
            return (ErrorNumber.SERVER_STARTING if self.starting else number), None, ()
        if tried and self.conflict(request, client, self.holds):
            numbers = [ErrorNumber.EXCLUSIVE_CONFLICT for _ in tried]
        else:
            numbers = [self.obstacle(entry, request, client) or ErrorNumber.NO_MORE_LICENSES for entry in tried]
            numbers += [ErrorNumber.FIRM_ITEM_INVALID for _ in untrusted]
            tried += [(container, request.firm_code, 0) for container in untrusted]
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
                or request.firm_code in [one.firm_code for one in box.contents.firm_items if not one.unusable]
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
        if self.untrusted(request):
            return ErrorNumber.FIRM_ITEM_INVALID, None, ()
        named = self.boxes if request.container is None else {request.container} & self.boxes.keys()
        return (ErrorNumber.ENTRY_NOT_FOUND if named else ErrorNumber.BOX_NOT_FOUND), None, ()

    def granted(self, client: Client, request: Request, handle: int, now: int, where: Entry | str | None) -> None:
        """Take in a new access, if it may be booked there."""
        if request.kind is HandleKind.ENTRY:
            assert isinstance(where, tuple)
            places = self.places(request, client, self.taken)
            assert where in places, "booked on a license that was not the choice"
            if not self.joinable(request, client, self.holds) and (
                lefts := self.left_over(request, client, self.lefts)
            ):
                self.take_up(lefts[-1])
            self.holds.append(Hold(handle, client, request, where, where[0], now, now, now + request.maximum_life))
        else:
            assert not isinstance(where, tuple)
            here = [box.contents.id for box in self.targets(request) if box.present]
            assert where == (None if request.kind is HandleKind.SUBSYSTEM else here[0])
            self.holds.append(Hold(handle, client, request, None, where, now, now, now + request.maximum_life))

    # ghosts (decision 12)

    def ghosts(self, client: Client, request: Request) -> list[Hold]:
        """Return the accesses of the product that crashed instances of the application left, oldest first."""
        return [
            hold
            for hold in sorted(self.own(request, client, self.holds), key=lambda hold: hold.handle)
            if hold.client.state == "closed" and hold.client.application == client.application
        ]

    def places_without(self, client: Client, request: Request, gone: Collection[Hold]) -> bool:
        """Whether a request would find a place if these accesses had been let go of."""
        taken = Taken(list(self.holds), list(self.lefts))
        for hold in sorted(gone, key=lambda hold: hold.handle):
            self._let_go(hold, taken)
        return bool(self.places(request, client, taken))

    def _let_go(self, hold: Hold, taken: Taken) -> None:
        """Take an access away; if it was the last of its license's, that may linger."""
        taken.holds.remove(hold)
        if (
            hold.entry is not None
            and self.options(hold.entry).linger
            and self.takes(hold.entry, hold.request.mode)
            and not hold.request.ignore_linger
            and hold.handle not in self.converting
            and not any(self._share(one, hold) and one.client.station == hold.client.station for one in taken.holds)
        ):
            until = self.now + self.options(hold.entry).linger
            taken.lefts.append(Left(hold.entry, hold.client.station, hold.request.mode, until))

    def let_go(self, hold: Hold, cause: EndCause | None = None) -> None:
        """Take in that a client let go of an access, or is no more."""
        self._let_go(hold, self.taken)
        self._remember(hold, cause)

    def take_up(self, left: Left) -> None:
        """Take in that the newest of these lingers no longer, since its station has it again."""
        last = len(self.lefts) - 1 - self.lefts[::-1].index(left)
        del self.lefts[last]

    def ghosts_help(self, client: Client, request: Request) -> bool:
        """Whether a request that finds no place would find one without the ghosts."""
        return self.places_without(client, request, self.ghosts(client, request))

    def held_back(self, client: Client, request: Request) -> bool:
        """Whether an operator's word forbids the station a new license; what it has of the product it may share."""
        name = (client.station, request.firm_code, request.product_code)
        exists = self.entries(request.firm_code, request.product_code)
        if not exists or not any(one[:3] == name and self.now < one[3] for one in self.held_off):
            return False
        if self.conflict(request, client, self.holds):
            return True
        return not (self.joinable(request, client, self.holds) or self.left_over(request, client, self.lefts))

    def deallocated(self, holds: Collection[Hold], hold_off: int) -> None:
        """Take in that an operator took these."""
        for hold in holds:
            if hold_off and hold.entry is not None:
                name = (hold.client.station, hold.request.firm_code, hold.request.product_code)
                self.held_off = [one for one in self.held_off if one[:3] != name]
                self.held_off.append((*name, self.now + hold_off))
        for hold in list(holds):
            self.end(hold, EndCause.ADMINISTRATOR)

    def instances(self, hold: Hold) -> list[Hold]:
        """Return all accesses that one allocation has, of which this is one."""
        station = hold.client.station
        return [one for one in self.holds if one is hold or (self._share(one, hold) and one.client.station == station)]

    def restarted(self) -> None:
        """Take in that the server was started again with what it had: all are away."""
        self.starting = True
        for box in self.boxes.values():
            box.present = False
        for client in self.clients:
            if client.state == "attached":
                client.state = "silent"

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
        for hold in sorted(gone, key=lambda hold: hold.handle):
            self.let_go(hold, EndCause.SUPERSEDED)

    def _share(self, one: Hold, other: Hold) -> bool:
        """Whether two accesses of one station share an allocation."""
        return one.entry == other.entry and one.request.mode is other.request.mode is AccessMode.STATION_SHARE

    def end(self, hold: Hold, cause: EndCause | None) -> None:
        """Take in that the server ended an access, and left nothing of it."""
        self.holds.remove(hold)
        self._remember(hold, cause)

    def _remember(self, hold: Hold, cause: EndCause | None) -> None:
        self.converting.pop(hold.handle, None)
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
        for hold in [hold for hold in self.holds if hold.client is client]:
            self.let_go(hold)
        self.clients.remove(client)

    def refusal_of_handle(self, client: Client, handle: int) -> Why | None:
        """Return how the use of a handle must be refused; None if it is the client's."""
        if handle in self.handles_of(client):
            return None
        causes = [cause for number, cause in client.ended.values() if number == handle]
        return _ended(causes[0] if causes else None)

    # containers

    def missed(self, container: str) -> None:
        """Take in that a container was unplugged just now."""
        self.boxes[container].present = False

    def consumed(self, entry: Entry, units_used: int, usage_start: int) -> None:
        """Take in what a container has counted."""
        box = self.boxes[entry[0]]
        (firm_item,) = box.contents.firm_items
        products = tuple(
            replace(one, units_used=units_used, usage_start=usage_start) if one.reference == entry[2] else one
            for one in firm_item.products
        )
        box.contents = replace(box.contents, firm_items=(replace(firm_item, products=products),))

    def plugged(self, contents: Container, loans: list[Out], outcome: Outcome, lefts: list[Left]) -> None:
        """Take in what a container holds now, and what became of each access: the entry it is on, or why it ended.

        `loans` are those of the container from now on, `lefts` is what lingers.
        """
        self.loans = [loan for loan in self.loans if loan.entry[0] != contents.id] + loans
        before = self._items()
        self.boxes[contents.id] = Box(contents)
        firm_codes = [firm_item.firm_code for firm_item in contents.firm_items if not firm_item.unusable]
        references = {
            hold.handle
            for hold in self.holds
            if hold.container == contents.id
            and hold.request.kind is HandleKind.FIRM_ITEM
            and hold.request.firm_code not in firm_codes
        }
        self._changed(before, outcome, EndCause.REPROGRAMMED, references, lefts)

    def unplugged(self, container: str, outcome: Outcome, lefts: list[Left]) -> None:
        """Take in that a container is gone for good, what became of each access, and what lingers from now on."""
        before = self._items()
        del self.boxes[container]
        references = {hold.handle for hold in self.holds if hold.container == container and hold.entry is None}
        self._changed(before, outcome, EndCause.CONTAINER_GONE, references, lefts)

    def struck(self, loan: Out) -> None:
        """Take in that a loan is no more: an access that was to become it counts again, or ends for want of room."""
        self.loans = [one for one in self.loans if one is not loan]
        for hold in [self.hold(handle) for handle, name in self.converting.items() if name == (loan.entry[0], loan.id)]:
            del self.converting[hold.handle]
            assert hold.entry == loan.entry
            if self.allocated(loan.entry, self.taken) > self.room(loan.entry):
                self.end(hold, EndCause.LENT)

    def leapt(self, by: int) -> None:
        """Take in that license time leapt forward: what lasts does so for as long as before, and loans do."""
        self.now += by
        self._lasts_later(by)

    def time_set(self, now: int) -> None:
        """Take in that the license time was set back: what lasts does so for as long as before; nothing is of later."""
        back, self.now = self.now - now, now
        for hold in self.holds:
            hold.first, hold.last = min(hold.first, now), min(hold.last, now)
        self._lasts_later(-back)

    def _lasts_later(self, by: int) -> None:
        self.lefts = [Left(left.entry, left.station, left.mode, left.until + by) for left in self.lefts]
        for hold in self.holds:
            hold.ends += by
        self.held_off = [(who, firm, product, until + by) for who, firm, product, until in self.held_off]
        for loan in self.loans:
            loan.later = max(loan.later + by, 0)

    def passed(self, outcome: Outcome, lefts: list[Left]) -> None:
        """Take in that what is due has happened: what lapsed, and what became of the accesses to what is over."""
        self.lefts = [left for left in self.lefts if left.until > self.now]
        for loan in [loan for loan in self.loans if loan.until() <= self.now]:
            self.struck(loan)
        living = [(hold.ends, hold.handle) for hold in self.holds if _mortal(hold)]
        for end, handle in sorted(living):
            if end <= self.now:
                assert outcome[handle] is EndCause.MAXIMUM_LIFE, "nobody outlives what he asked for"
                self.let_go(self.hold(handle), EndCause.MAXIMUM_LIFE)
        for cause, number in (
            (EndCause.EXPIRED, ErrorNumber.EXPIRATION_OVERRUN),
            (EndCause.USAGE_OVER, ErrorNumber.USAGE_PERIOD_OVERRUN),
        ):
            over = [entry for entry in self._items() if self.over(entry) is number]
            leaving = [hold for hold in self.holds if hold.entry in over and not hold.request.force]
            ended = [hold for hold in leaving if isinstance(outcome[hold.handle], EndCause)]
            assert all(outcome[hold.handle] is cause for hold in ended), "the cause is told"
        staying = [hold for hold in self.holds if hold.entry is None or not self.over(hold.entry) or hold.request.force]
        self._judge(outcome, staying, {}, set(), lefts)

    def _items(self) -> dict[Entry, ProductItem]:
        """Return all entries and their options."""
        return {
            (box.contents.id, firm_item.firm_code, item.reference): item
            for box in self.boxes.values()
            for firm_item in box.contents.firm_items
            for item in firm_item.products
        }

    def _changed(
        self,
        items: dict[Entry, ProductItem],
        outcome: Outcome,
        cause: EndCause,
        references: set[int],
        lefts: list[Left],
    ) -> None:
        """Judge what became of the accesses when a container got other contents.

        `items` are the entries as they were, `references` the handles of other kinds that are to end.
        """
        fitting = [
            hold
            for hold in self.holds
            if hold.entry is None or self.item(hold.entry) == items[hold.entry] or self._still_fits(hold, hold.entry)
        ]
        self.lefts = [
            left
            for left in self.lefts
            if (item := self.item(left.entry)) and item.product_code == items[left.entry].product_code
        ]
        taken = Taken(fitting, self.lefts)
        crowded: dict[Entry, int] = {}
        for entry in {hold.entry for hold in fitting} | {left.entry for left in self.lefts}:
            if entry is not None and (lacking := self.allocated(entry, taken) - self.room(entry)) > 0:
                crowded[entry] = lacking

        for hold in self.holds:
            if isinstance(outcome[hold.handle], EndCause):
                lent = hold.entry is not None and self.item(hold.entry) == items[hold.entry]
                assert outcome[hold.handle] is (EndCause.LENT if lent else cause), "the cause is told"
        self._judge(outcome, fitting, crowded, references, lefts)

    def crowd_out(self, entry: Entry, outcome: Outcome, lefts: list[Left]) -> None:
        """Judge what became of the accesses when one more of an entry turned out to be lent than there was room for."""
        lacking = self.allocated(entry, self.taken) - self.room(entry)
        ended = [hold for hold in self.holds if isinstance(outcome[hold.handle], EndCause)]
        assert all(outcome[hold.handle] is EndCause.LENT for hold in ended), "the cause is told"
        self._judge(outcome, list(self.holds), {entry: lacking} if lacking > 0 else {}, set(), lefts)

    def _judge(
        self,
        outcome: Outcome,
        fitting: list[Hold],
        crowded: dict[Entry, int],
        references: set[int],
        lefts: list[Left],
    ) -> None:
        """Judge what became of the accesses when some had to leave.

        `fitting` may stay, but for the want of so many licenses of those entries that are `crowded`.
        """
        before = {hold: hold.entry for hold in self.holds}
        gone = [hold for hold in before if isinstance(outcome[hold.handle], EndCause)]
        moved = [hold for hold in before if hold not in gone and outcome[hold.handle] != before[hold]]
        left = {before[hold] for hold in [*gone, *moved]}

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
            self.converting.pop(hold.handle, None)
        for hold in gone:
            reason = outcome[hold.handle]
            assert isinstance(reason, EndCause)
            self.end(hold, reason)
        taken_up = self._lefts_are(lefts, crowded, moved)
        for entry in crowded:
            assert self.allocated(entry, self.taken) == self.room(entry), "no more leave than must"
            assert not {left.entry for left in self.lefts} & {entry} or not [
                hold for hold in [*gone, *moved] if before[hold] == entry and hold in fitting
            ], "what lingers gives way first"
        for hold in moved:
            assert hold.entry is not None
            assert self._still_fits(hold, hold.entry), "what was asked holds wherever an access is booked"
            assert self.stale(hold.entry, hold.request) is None, "nobody moves to what is not valid"
            shares = self.joinable(hold.request, hold.client, [one for one in before if one not in gone + moved])
            stays = [share for share in self.staying(shares, hold.client.station) if share not in left]
            assert hold.entry in stays or not stays, "the own share comes first"
            if hold.entry in taken_up.get((hold.client.station, hold.request.mode), []):
                continue
            if not self._shared(hold):
                assert not self._lefts_beside(hold, left), "what lingers for the station comes before what is free"
                assert self.boxes[hold.entry[0]].present, "what is away takes no new allocation"
                self._nothing_free(hold, left, hold.entry)
        for hold in gone:
            if before[hold] is not None:
                self._nothing_free(hold, left)
                shares = self.joinable(hold.request, hold.client, self.holds)
                stays = self.staying(shares, hold.client.station)
                assert left.issuperset(stays), "who has a share that satisfies him keeps his access"
                assert not self._lefts_beside(hold, left), "who has what lingers keeps his access"

    def _lefts_are(
        self, lefts: list[Left], crowded: dict[Entry, int], moved: list[Hold]
    ) -> dict[tuple[Station, AccessMode], list[Entry]]:
        """Take in what lingers from now on; return what was taken up by those who moved, by station and mode."""
        lost = list(self.lefts)
        for left in lefts:
            assert left in lost, "nothing begins to linger when others leave"
            lost.remove(left)
        taken_up: dict[tuple[Station, AccessMode], list[Entry]] = {}
        for left in lost:
            takers = [
                hold
                for hold in moved
                if (hold.entry, hold.client.station, hold.request.mode) == (left.entry, left.station, left.mode)
            ]
            if takers:
                taken_up.setdefault((left.station, left.mode), []).append(left.entry)
            else:
                assert left.entry in crowded, "what lingers stays, unless there is no room"
        for left in lost:
            self.lefts.remove(left)
        return taken_up

    def _lefts_beside(self, hold: Hold, left: set[Entry | None]) -> bool:
        """Whether something lingers that would have done for an access, where none had to leave."""
        return any(one.entry not in left for one in self.left_over(hold.request, hold.client, self.lefts))

    def _still_fits(self, hold: Hold, entry: Entry) -> bool:
        """Whether an entry, which may have changed or gone, could serve an access if there is room."""
        item = self.item(entry)
        return (
            item is not None
            and item.product_code == hold.request.product_code
            and not self.hidden(entry, hold.request, hold.client)
            and self.misfit(entry, hold.request) is None
            and self.shut(entry, hold.request) is None
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
            own = hold.request.mode is AccessMode.STATION_SHARE and self.taken_along(entry, hold.client.station)
            if entry not in left and not own and self.obstacle(entry, hold.request, hold.client) is None:
                assert not self.free(entry, hold.request.mode, self.taken), "what is free and fits is taken"


def _mortal(hold: Hold) -> bool:
    """Whether an access was asked for with a maximum life."""
    return hold.request.maximum_life > 0


def _ended(cause: EndCause | None) -> Why:
    """Return how the use of a handle that the server ended is refused (decision 11)."""
    if cause is EndCause.EXPIRED:
        return ErrorNumber.EXPIRATION_OVERRUN, cause, ()
    return (ErrorNumber.USAGE_PERIOD_OVERRUN if cause is EndCause.USAGE_OVER else ErrorNumber.INVALID_HANDLE), cause, ()


def _alike(one: Request, other: Request) -> bool:
    """Whether two requests ask for the same."""
    if one.kind is not other.kind:
        return False
    if one.kind is not HandleKind.ENTRY:  # these have neither a product nor a mode
        other = replace(other, product_code=one.product_code, mode=one.mode)
    return one == other
