"""Which license serves a request, and what a refusal says (domain reference, sections 2, 3 and 6; decision 11)."""

from __future__ import annotations

import pytest

from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Reference
from drivers.container import ContainerId, QuantityFlag
from protocol.errors import ErrorNumber
from protocol.terms import HandleKind
from tests.core.scene import EXCLUSIVE, FIRM, NO_USER_LIMIT, STATION_SHARE, USER_LIMIT, Scene, container, item, place


def numbers(refusal: Refused) -> list[tuple[str, int, int]]:
    """Return the reasons of a refusal: container, item, number."""
    return [(reason.container, reason.item, reason.number) for reason in refusal.reasons]


# the order


def test_containers_are_drawn_on_in_the_order_of_their_ids() -> None:
    """The lowest mask and serial serves until it is exhausted, whichever came first; numbers count, not letters.

    What is given back is taken first again.
    """
    scene = Scene(container(item(), id="3-10"), container(item(), id="3-9"), container(item(), id="20-1"))
    first = scene.access(scene.session("a"))
    assert place(first) == ("3-9", 1)
    assert place(scene.access(scene.session("b"))) == ("3-10", 1)
    assert place(scene.access(scene.session("c"))) == ("20-1", 1)
    scene.release(first)
    assert place(scene.access(scene.session("d"))) == ("3-9", 1)


def test_a_station_joins_its_share_in_whichever_container_it_is() -> None:
    """The own share is looked for in all licenses before a free unit is: two passes, not one (law 2)."""
    scene = Scene(container(item(quantity=1), id="3-1"), container(item(quantity=1), id="3-2"))
    blocker = scene.access(scene.session("other"))
    share = scene.access(scene.session("pc"), STATION_SHARE)
    assert place(share) == ("3-2", 1)
    scene.release(blocker)
    assert place(scene.access(scene.session("pc"), STATION_SHARE)) == ("3-2", 1)
    assert (scene.used("3-1"), scene.used("3-2")) == (0, 1)


def test_a_share_that_does_not_satisfy_is_not_joined() -> None:
    """A request that the station's share cannot serve opens another, and both are joined from then on."""
    scene = Scene(container(item(1, 2, feature_map=0b01)), container(item(1, 2, feature_map=0b10), id="3-2"))
    pc = scene.session("pc")
    assert place(scene.access(pc, STATION_SHARE)) == ("3-1", 1)
    assert place(scene.access(pc, STATION_SHARE, feature_code=0b10)) == ("3-2", 1)
    assert place(scene.access(pc, STATION_SHARE, feature_code=0b10)) == ("3-2", 1)
    assert place(scene.access(pc, STATION_SHARE, feature_code=0b01)) == ("3-1", 1)
    assert place(scene.access(pc, STATION_SHARE, container="3-2")) == ("3-2", 1)
    assert (scene.used("3-1"), scene.used("3-2")) == (1, 1)


def test_a_local_share_of_a_hidden_entry_is_not_joined_from_the_network() -> None:
    """A station that comes over the network does not join its share on a local-only entry: that entry is not there."""
    scene = Scene(container(item(1, flags=QuantityFlag.LOCAL_ONLY), item(2)))
    assert place(scene.access(scene.session("here", local=True), STATION_SHARE)) == ("3-1", 1)
    assert place(scene.access(scene.session("here"), STATION_SHARE)) == ("3-1", 2)
    assert place(scene.access(scene.session("here", local=True), STATION_SHARE)) == ("3-1", 1)


# pins and features


def test_pins_restrict_the_choice() -> None:
    """A container or an item that is named is the only one asked; exhausted, it gives 212 though others are free."""
    scene = Scene(container(item(1), item(2)), container(item(1), item(2), id="3-2"))
    session = scene.session()
    assert place(scene.access(session, container="3-2")) == ("3-2", 1)
    assert place(scene.access(session, item=2)) == ("3-1", 2)
    assert place(scene.access(session, container="3-2", item=2)) == ("3-2", 2)
    refusal = scene.refused(session, container="3-2")
    assert refusal.number is ErrorNumber.NO_MORE_LICENSES
    assert numbers(refusal) == [("3-2", 1, 212), ("3-2", 2, 212)]


def test_a_pin_on_what_is_not_there() -> None:
    """An unknown container is 201, an item or product that a known one lacks 200."""
    scene = Scene(container(item(1)))
    session = scene.session()
    assert scene.refused(session, container="3-9").number is ErrorNumber.BOX_NOT_FOUND
    assert scene.refused(session, product=99, container="3-9").number is ErrorNumber.BOX_NOT_FOUND
    assert scene.refused(session, product=99, container="3-1").number is ErrorNumber.ENTRY_NOT_FOUND
    assert scene.refused(session, item=9).number is ErrorNumber.ENTRY_NOT_FOUND
    assert scene.refused(session, product=99).number is ErrorNumber.ENTRY_NOT_FOUND
    assert scene.refused(session, firm_code=99).number is ErrorNumber.ENTRY_NOT_FOUND


def test_where_nothing_is_plugged_in_the_refusal_says_so() -> None:
    """Whoever reads it need not look for a wrong product code first; a container that is unplugged is none."""
    scene = Scene()
    said = "There is no such license on this server: no container is plugged in, Error 200."
    assert str(scene.refused(scene.session())) == said
    scene = Scene(container(item(1)))
    assert str(scene.refused(scene.session(), product=99)) == "There is no such license on this server, Error 200."
    scene.engine.unplug(ContainerId("3-1"))
    assert str(scene.refused(scene.session(), product=99)) == said


@pytest.mark.parametrize("asked", [0b001, 0b100, 0b101])
def test_every_requested_feature_bit_must_be_there(asked: int) -> None:
    """A feature code is served if the map has all its bits."""
    scene = Scene(container(item(feature_map=0b101)))
    scene.access(scene.session(), feature_code=asked)


@pytest.mark.parametrize("asked", [0b010, 0b011, 0b111, 0b1000])
def test_one_missing_feature_bit_refuses(asked: int) -> None:
    """A feature code with one bit that the map lacks is refused with 30, however many of the others fit."""
    scene = Scene(container(item(feature_map=0b101)))
    assert scene.refused(scene.session(), feature_code=asked).number is ErrorNumber.FEATURE_MAP_INCOMPATIBLE


def test_a_feature_of_an_entry_without_feature_map_is_29() -> None:
    """Asking for a feature where there is no map is 29; asking for none is served."""
    scene = Scene(container(item()))
    assert scene.refused(scene.session(), feature_code=1).number is ErrorNumber.FEATURE_MAP_MISSING
    scene.access(scene.session(), feature_code=0)


def test_an_entry_that_the_server_cannot_use_is_23_and_says_why() -> None:
    """An entry with an option unknown to this software serves nobody, and the reason says which option."""
    scene = Scene(container(item(unusable="it has the option 77")))
    refusal = scene.refused(scene.session(), NO_USER_LIMIT)
    assert refusal.number is ErrorNumber.PRODUCT_ITEM_INVALID
    assert "it has the option 77" in refusal.reasons[0].text


def test_an_entry_that_cannot_serve_is_passed_over() -> None:
    """An unusable entry, one that denies the mode and one that lacks the feature leave the fourth to serve."""
    scene = Scene(
        container(
            item(1, 9, unusable="no"),
            item(2, 9, flags=QuantityFlag.DENY_USER_LIMIT, feature_map=3),
            item(3, 9, feature_map=1),
            item(4, 9, feature_map=3),
        )
    )
    assert place(scene.access(scene.session(), USER_LIMIT, feature_code=2)) == ("3-1", 4)


# refusals


def test_several_reasons_give_230_and_the_list() -> None:
    """Where entries fail for different reasons the number is 230, and the list says which failed why."""
    scene = Scene(
        container(item(1, feature_map=1), item(2), item(3, feature_map=2, flags=QuantityFlag.DENY_USER_LIMIT)),
        container(item(1, product=15), id="3-2"),
    )
    refusal = scene.refused(scene.session(), USER_LIMIT, feature_code=2)
    assert refusal.number is ErrorNumber.SEVERAL_REASONS
    assert numbers(refusal) == [("3-1", 1, 30), ("3-1", 2, 29), ("3-1", 3, 223)]
    body = refusal.body()
    assert (body.number, body.name, body.reasons) == (230, "SEVERAL_REASONS", refusal.reasons)
    assert body.text.endswith("Error 230.")
    assert [reason.name for reason in body.reasons] == [
        "FEATURE_MAP_INCOMPATIBLE",
        "FEATURE_MAP_MISSING",
        "WRONG_ACCESS_MODE",
    ]


def test_the_want_of_a_unit_outranks_other_reasons() -> None:
    """If one fitting entry lacked only a unit the number is 212, whatever is wrong with the others (decision 11)."""
    scene = Scene(container(item(1, flags=QuantityFlag.DENY_USER_LIMIT), item(2)))
    scene.access(scene.session())
    refusal = scene.refused(scene.session())
    assert refusal.number is ErrorNumber.NO_MORE_LICENSES
    assert numbers(refusal) == [("3-1", 1, 223), ("3-1", 2, 212)]


def test_what_is_hidden_is_not_in_the_list() -> None:
    """The reasons name no entry that does not exist for the client."""
    scene = Scene(container(item(1, 0), item(2, flags=QuantityFlag.LOCAL_ONLY), item(3)))
    scene.access(scene.session())
    assert numbers(scene.refused(scene.session())) == [("3-1", 3, 212)]


def test_while_starting_what_may_still_come_is_238() -> None:
    """Before every driver has looked once, an entry that serves may just be late (decision 6)."""
    scene = Scene(container(item(1), item(2, product=15, flags=QuantityFlag.DENY_USER_LIMIT)), started=False)
    session = scene.session()
    scene.access(session)  # what is there serves already
    assert scene.refused(session).number is ErrorNumber.SERVER_STARTING
    assert scene.refused(session, product=99).number is ErrorNumber.SERVER_STARTING
    assert scene.refused(session, container="3-9").number is ErrorNumber.SERVER_STARTING
    denied = scene.refused(session, product=15)
    assert denied.number is ErrorNumber.SERVER_STARTING
    assert [reason.number for reason in denied.reasons] == [ErrorNumber.WRONG_ACCESS_MODE]
    assert scene.refused(session, EXCLUSIVE).number is ErrorNumber.EXCLUSIVE_CONFLICT  # that no container can cure
    scene.engine.started()
    assert scene.refused(session, product=15).number is ErrorNumber.WRONG_ACCESS_MODE
    assert scene.refused(session).number is ErrorNumber.NO_MORE_LICENSES
    assert scene.refused(session, product=99).number is ErrorNumber.ENTRY_NOT_FOUND
    assert scene.refused(session, container="3-9").number is ErrorNumber.BOX_NOT_FOUND


# handles of other kinds


def test_other_kinds_of_handle_allocate_nothing() -> None:
    """Handles on a firm item, a container and the subsystem count nothing, and conflict with nothing."""
    scene = Scene(container(item(quantity=1)), container(item(product=15), id="3-2", firm=7))
    session = scene.session()
    firm_item = scene.refer(session, HandleKind.FIRM_ITEM, firm_code=7)
    box = scene.refer(session, HandleKind.CONTAINER, firm_code=0, container="3-2")
    first = scene.refer(session, HandleKind.CONTAINER, firm_code=0)
    subsystem = scene.refer(session, HandleKind.SUBSYSTEM, firm_code=0)
    assert firm_item.target == Reference(HandleKind.FIRM_ITEM, ContainerId("3-2"), 7)
    assert box.target == Reference(HandleKind.CONTAINER, ContainerId("3-2"), 0)
    assert first.target == Reference(HandleKind.CONTAINER, ContainerId("3-1"), 0)
    assert subsystem.target == Reference(HandleKind.SUBSYSTEM, None, 0)
    assert scene.used() == 0
    scene.access(session)
    for held in (firm_item, box, first, subsystem):
        scene.release(held)
    assert scene.used() == 1


def test_a_container_handle_with_a_firm_code_is_on_a_container_that_has_it() -> None:
    """Only firm code 0 means any container (`messages.Access`)."""
    scene = Scene(container(item()), container(item(), id="3-2", firm=7))
    held = scene.refer(scene.session(), HandleKind.CONTAINER, firm_code=7)
    assert isinstance(held.target, Reference)
    assert held.target.container == "3-2"


def test_a_handle_on_what_is_not_there() -> None:
    """A firm item that no container has is 200, a container that is not there 201; a subsystem is always there."""
    scene = Scene(container(item()))
    session = scene.session()
    assert scene.refused(session, kind=HandleKind.FIRM_ITEM, firm_code=7).number is ErrorNumber.ENTRY_NOT_FOUND
    pinned = scene.refused(session, kind=HandleKind.FIRM_ITEM, firm_code=FIRM, container="3-9")
    assert pinned.number is ErrorNumber.BOX_NOT_FOUND
    away = scene.refused(session, kind=HandleKind.CONTAINER, firm_code=0, container="3-9")
    assert away.number is ErrorNumber.BOX_NOT_FOUND
    empty = Scene()
    assert empty.refused(empty.session(), kind=HandleKind.CONTAINER, firm_code=0).number is ErrorNumber.BOX_NOT_FOUND
    empty.refer(empty.session(), HandleKind.SUBSYSTEM)


def test_a_handle_on_what_may_still_come_is_238() -> None:
    """While the server is starting, a container that is not there may just be late."""
    scene = Scene(started=False)
    refusal = scene.refused(scene.session(), kind=HandleKind.CONTAINER, firm_code=0)
    assert refusal.number is ErrorNumber.SERVER_STARTING


@pytest.mark.parametrize("absent_first", [True, False])
def test_a_handle_on_an_absent_firm_item_is_70_wherever_the_container_stands(absent_first: bool) -> None:
    """If the container with the firm item is unplugged just now the number is 70, not 200, in either order."""
    with_it, without = container(item(), id="3-1", firm=7), container(item(), id="3-2")
    scene = Scene(*((with_it, without) if absent_first else (without, with_it)))
    scene.engine.unplug(with_it.id)
    refusal = scene.refused(scene.session(), kind=HandleKind.FIRM_ITEM, firm_code=7)
    assert refusal.number is ErrorNumber.BOX_LOST
    scene.engine.plug(with_it)
    scene.refer(scene.session(), HandleKind.FIRM_ITEM, firm_code=7)
