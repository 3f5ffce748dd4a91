"""What is asked, and how pages become one listing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cmserverd.cmu import fetch
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import AccessPage, Containers, Contents, LicensePage, NetCluster, NetUsers, Params
from tests.cmu.made_up import ACCESS, ALL_ACCESSES, ALL_COUNTS, LICENSE, NOON, MadeUp, R

EVERYTHING = fetch.Selection()


def test_pages_become_one_listing() -> None:
    """However small the server's pages are, the listing is the same as from one page."""
    assert fetch.network(MadeUp(page=1), EVERYTHING) == fetch.network(MadeUp(), EVERYTHING)


def test_accesses_stand_with_their_license() -> None:
    """Each license has its own accesses; those that allocate nothing are apart; none is lost or told twice."""
    found = fetch.network(MadeUp(), EVERYTHING)
    assert [use.counts for use in found.licenses] == list(ALL_COUNTS)
    assert [[access.handle for access in use.accesses] for use in found.licenses] == [[1, 2, 3, 4], [5, 1_000_000], []]
    assert [access.handle for access in found.others] == [6, 7]
    assert sum(len(use.accesses) for use in found.licenses) + len(found.others) == len(ALL_ACCESSES)


def test_a_table_at_rest_is_read_once() -> None:
    """One page of each, at one position."""
    server = MadeUp()
    found = fetch.network(server, EVERYTHING)
    assert found.consistent
    assert (found.position, found.time) == (41, NOON)
    assert [type(params) for params in server.asked[1:]] == [NetCluster, NetUsers]


def test_a_table_that_moves_is_read_again() -> None:
    """Counts and accesses of two positions do not fit together: they are read until they do."""
    server = MadeUp(moves=2)
    found = fetch.network(server, EVERYTHING)
    assert found.consistent
    assert found.position == 43
    assert [type(params) for params in server.asked[1:]] == [NetCluster, NetUsers] * 2


def test_a_table_that_never_rests_is_read_three_times_and_said_to_be_moving() -> None:
    """A busy server is not asked for ever, and the listing does not claim what it is not."""
    server = MadeUp(moves=1_000)
    found = fetch.network(server, EVERYTHING)
    assert not found.consistent
    assert found.position == 47
    assert [type(params) for params in server.asked[1:]] == [NetCluster, NetUsers] * 3


def test_the_selection_is_the_servers_to_apply() -> None:
    """Filters go into the requests, both of them, and the cursor and the largest page with them."""
    server = MadeUp(page=1)
    fetch.network(server, fetch.Selection("3-3448482", 600010, 15, relevant=True))
    cluster = NetCluster(container="3-3448482", firm_code=600010, product_code=15, limit=1_000)
    users = NetUsers(container="3-3448482", firm_code=600010, product_code=15, relevant=True, limit=1_000)
    assert server.asked[1:] == [cluster, users, replace(users, cursor=5)]


class Endless(MadeUp):
    """A server whose pages lead nowhere: to the same place again, or ever on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.pages = 0

    def call(self, params: Params[R]) -> R:
        result = super().call(params)
        if isinstance(result, (LicensePage, AccessPage)):
            self.pages += 1
            return replace(result, next=self.pages * self.step + 1)
        return result


@pytest.mark.parametrize(("step", "pages"), [(0, 2), (1, fetch.PAGES)])
def test_a_listing_without_end_is_an_error(step: int, pages: int) -> None:
    """A broken server costs neither all time nor all memory."""
    server = Endless(step)
    with pytest.raises(LicenseError, match="its listing does not come to an end, Error 100"):
        fetch.network(server, EVERYTHING)
    assert server.pages == pages


def test_contents_are_asked_of_the_chosen_container_only() -> None:
    """`--serial` spares the server the others."""
    server = MadeUp()
    found = fetch.contents(server, fetch.Selection("3-3448482"))
    assert [one.container.id for one in found.contents] == ["3-3448482"]
    assert server.asked[1:] == [Containers(), Contents("3-3448482")]


class Pulled(MadeUp):
    """A server from which a container goes between the list and the question for its contents."""

    def __init__(self, number: ErrorNumber) -> None:
        super().__init__()
        self.number = number

    def call(self, params: Params[R]) -> R:
        if params == Contents("3-3448482"):
            raise LicenseError.of(self.number)
        return super().call(params)


def test_a_container_that_goes_meanwhile_is_left_out() -> None:
    """The others are still shown; any other error is one."""
    found = fetch.contents(Pulled(ErrorNumber.BOX_NOT_FOUND), EVERYTHING)
    assert [one.container.id for one in found.contents] == ["130-1234567890"]
    with pytest.raises(LicenseError, match="Error 104"):
        fetch.contents(Pulled(ErrorNumber.INTERNAL), EVERYTHING)


def test_whether_anything_was_found() -> None:
    """Accesses without licenses are something; nothing at all is nothing."""
    assert fetch.found_any(fetch.network(MadeUp((LICENSE,), ()), EVERYTHING))
    assert fetch.found_any(fetch.network(MadeUp((), (ACCESS,)), EVERYTHING))
    assert not fetch.found_any(fetch.network(MadeUp((), ()), EVERYTHING))
    assert not fetch.found_any(fetch.containers(MadeUp(), fetch.Selection("1-1")))
    assert not fetch.found_any(fetch.contents(MadeUp(), fetch.Selection("1-1")))
