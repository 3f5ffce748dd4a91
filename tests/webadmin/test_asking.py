"""Before a user or a token is removed, a page asks and says whom that hits."""

from __future__ import annotations

import pytest

from cmserverd.webadmin.logins import IDLE
from cmserverd.webadmin.people import Role
from tests.webadmin.conftest import PASSWORD, World, hidden_fields

CONFIRM = 'id="confirm"'


async def test_whom_the_removal_of_a_user_hits(world: World) -> None:
    """His role, and whether he is at work; asking removes nobody."""
    admin = await world.logged_in(Role.ADMIN)
    await world.logged_in(Role.OPERATOR, "otto")
    question = (await admin.get("/people/users/otto/remove")).text
    assert "<strong>otto</strong> has the role operator, and <strong>is logged in now</strong>" in question
    assert 'action="/people/users/otto/remove"' in question
    assert CONFIRM in question
    assert world.people.user("otto")
    world.clock.now += IDLE
    admin = world.browser()
    await admin.log_in("admin")
    assert "is not logged in now" in (await admin.get("/people/users/otto/remove")).text
    assert (await admin.confirm("/people/users/otto/remove")).status_code == 303
    assert world.people.user("otto") is None


async def test_the_last_administrator_is_not_offered(world: World) -> None:
    """The page says what to do first; with a second one it asks, and says that it is oneself."""
    admin = await world.logged_in(Role.ADMIN)
    question = await admin.get("/people/users/admin/remove")
    assert "admin is the last administrator, and cannot be removed" in question.text
    assert CONFIRM not in question.text
    world.add("second", Role.ADMIN)
    question = await admin.get("/people/users/admin/remove")
    assert "is you: you will be logged out at once" in question.text
    assert CONFIRM in question.text


async def test_whom_the_removal_of_a_token_hits(world: World) -> None:
    """When it was made, and what will not work any more."""
    admin = await world.logged_in(Role.ADMIN)
    world.people.add_token("prometheus", Role.VIEWER, 86_400)
    question = (await admin.get("/people/tokens/prometheus/remove")).text
    assert "The token <strong>prometheus</strong>, made on 1970-01-02, has the role viewer." in question
    assert CONFIRM in question
    assert (await admin.confirm("/people/tokens/prometheus/remove")).status_code == 303
    assert world.people.tokens == ()


@pytest.mark.parametrize("path", ["/people/users/otto/remove", "/people/tokens/prometheus/remove"])
async def test_who_is_gone_already(world: World, path: str) -> None:
    """Somebody else was faster; only administrators hear of that."""
    admin = await world.logged_in(Role.ADMIN)
    answer = await admin.get(path)
    assert (answer.status_code, "any more" in answer.text) == (400, True)
    operator = await world.logged_in(Role.OPERATOR)
    assert (await operator.get(path)).status_code == 403


@pytest.mark.parametrize("kind", ["user", "token"])
async def test_the_question_is_about_one_and_not_about_who_comes_after_him(world: World, kind: str) -> None:
    """Whoever has got the name meanwhile stays, and the administrator hears of it."""
    admin = await world.logged_in(Role.ADMIN)
    people = world.people

    def make() -> None:
        if kind == "user":
            world.add("otto", Role.VIEWER)
        else:
            people.add_token("otto", Role.VIEWER, 1)

    def names() -> list[str]:
        return [*(user.name for user in people.users), *(token.name for token in people.tokens)]

    make()
    path = f"/people/{kind}s/otto/remove"
    stale = hidden_fields((await admin.get(path)).text)
    people.remove("otto") if kind == "user" else people.remove_token("otto")
    make()
    answer = await admin.post(path, stale)
    assert answer.status_code == 400
    assert f"The {kind} otto is another one than you were shown; nothing was done." in answer.text
    assert names() == ["admin", "otto"]
    if kind == "user":
        people.change_password("otto", "of himself, while the question stands there")
    assert (await admin.confirm(path)).status_code == 303
    assert names() == ["admin"]


@pytest.mark.parametrize(("what", "fields"), [("role", {"role": "admin"}), ("password", {"password": PASSWORD})])
async def test_a_form_of_the_list_is_about_one_and_not_about_who_comes_after_him(
    world: World, what: str, fields: dict[str, str]
) -> None:
    """Whoever has got the name since the list was shown gets neither the role nor the password of another."""
    admin = await world.logged_in(Role.ADMIN)
    world.people.add("otto", Role.VIEWER, "a hash")
    path = f"/people/users/otto/{what}"
    form = (await admin.get("/people")).text.partition(f'action="{path}"')[2].partition("</form>")[0]
    stale = {**hidden_fields(form), **fields}
    world.people.remove("otto")
    world.people.add("otto", Role.VIEWER, "of another")
    answer = await admin.post(path, stale)
    assert answer.status_code == 400
    assert "The user otto is another one than you were shown; nothing was done." in answer.text
    otto = world.people.user("otto")
    assert otto
    assert (otto.role, otto.hash) == (Role.VIEWER, "of another")
    assert (await admin.post(path, {**stale, "id": otto.id})).status_code == 303
    assert world.people.user("otto") != otto


async def test_the_list_leads_to_the_question(world: World) -> None:
    """Nothing on it removes by itself."""
    admin = await world.logged_in(Role.ADMIN)
    world.people.add_token("prometheus", Role.VIEWER, 0)
    text = (await admin.get("/people")).text
    assert 'href="/people/users/admin/remove"' in text
    assert 'href="/people/tokens/prometheus/remove"' in text
    assert 'action="/people/users/admin/remove"' not in text
