"""Whatever single step of an attempt fails: at most one order for the name, then back-off, and no order beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.service.state import NameState, load_state
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.attempt_steps import NAME, SUBJECTS, Killed, Stepped, break_log
from tests.support.clock import ManualClock
from tests.support.fake_ca import FakeCa, problem
from tests.support.loop_time import LoopTime, settle

REQUESTS = 10
BACK_OFF = 700.0
"""Seconds: more than the first and second back-off, and than the pause of a CA that failed."""

LEASE = 31.0

Step = Callable[[], Awaitable[Any]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    # Time moves on where nothing happens: what a thread does must not look like that.
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    break_log()
    yield
    structlog.reset_defaults()


class Scene:
    """What is stored, a CA, and instances that come and go."""

    def __init__(self, *, renews: bool, subject: Subject = SUBJECTS["ecdsa"]) -> None:
        self.subject = subject
        self.clock = ManualClock()
        self.shared = MemoryStorage(self.clock)
        self.ca = FakeCa(challenges=("http-01", "dns-01"))
        self.instances: list[Stepped] = []
        self.instance = self.start()
        self._renews = renews
        self.replaced = ""

    async def begin(self) -> None:
        """Have an account, and a certificate to renew where the scene is a renewal; neither is a step to break."""
        if self._renews:
            certificate = await self.clock.run(self.instance.ask(subject=self.subject))
            assert certificate is not None
            self.replaced = certificate.fingerprint
            self.ca.orders.clear()
        self.instance.steps.taken.clear()
        self.instance.steps.learned_of_order = False

    def start(self) -> Stepped:
        self.instance = Stepped(self.shared, self.ca, self.clock)
        self.instances.append(self.instance)
        return self.instance

    async def ask(self) -> Certificate | None:
        return await self.clock.run(self.instance.ask(self.replaced, subject=self.subject))

    async def restart(self) -> None:
        """As after a crash or a stop: another instance, once the leases of the first one lapsed."""
        self.instance.steps.dead = True
        await self.instance.close()
        self.start()
        await self.clock.advance(LEASE)

    async def settle(self) -> Certificate:
        """Everything works again, and every back-off ends."""
        self.instance.storage.refuses = lambda _: False
        storing = asyncio.create_task(self.instance.states.run())
        await self.clock.advance(LEASE)
        storing.cancel()
        for _ in range(3):
            await self.clock.advance(BACK_OFF)
            certificate = await self.ask()
            if certificate is not None:
                return certificate
        raise AssertionError("no certificate in the end")

    async def state(self) -> NameState:
        return await load_state(self.shared, self.subject.cert_key)

    async def close(self) -> None:
        for instance in self.instances:
            instance.steps.dead = False
            await instance.close()


Strike = Callable[[Scene, Step, str], Awaitable[Any]]


async def fails(_: Scene, __: Step, what: str) -> Any:
    """It is not done."""
    raise httpx2.ConnectError("refused") if what.startswith("CA ") else StorageError(f"can't {what}")


async def fails_after(_: Scene, step: Step, what: str) -> Any:
    """It is done, but nobody learns of it."""
    await step()
    raise httpx2.ReadError("lost") if what.startswith("CA ") else StorageError(f"can't {what}: no answer in 30 s")


async def fails_from_then(scene: Scene, _: Step, what: str) -> Any:
    """No write works any more."""
    scene.instance.storage.refuses = lambda _: True
    raise httpx2.ReadError("lost") if what.startswith("CA ") else StorageError(f"can't {what}")


async def fails_from_after(scene: Scene, step: Step, _: str) -> Any:
    """It is done, then no write works any more."""
    done = await step()
    scene.instance.storage.refuses = lambda _: True
    return done


ORDER_STEPS = ("newOrder", "authz", "challenge", "order", "finalize", "certificate")


async def fails_refused(scene: Scene, step: Step, what: str) -> Any:
    """The CA refuses it, for a reason that lies with the name."""
    if what.removeprefix("CA ") not in ORDER_STEPS:
        return await step()
    return problem("rejectedIdentifier", status=403, replay_nonce=scene.ca._nonce())


async def loses_its_lease(scene: Scene, step: Step, _: str) -> Any:
    """A peer takes the name's lease over, finds nothing to do, and lets go of it."""
    name = f"certificates/{scene.subject.cert_key}"
    if name in scene.shared._leases:
        scene.shared._last_token += 1
        scene.shared._leases[name] = (scene.shared._last_token, 0.0)
    return await step()


def cancelled(before: bool) -> Strike:
    async def strike(scene: Scene, step: Step, _: str) -> Any:
        for task in scene.instance.certificates._issuances._tasks.values():
            asyncio.get_running_loop().call_soon(task.cancel)
        if before:
            await settle()
        done = await step()
        await settle()
        return done

    strike.__name__ = f"cancelled_{'before' if before else 'after'}"
    return strike


def killed(before: bool) -> Strike:
    async def strike(scene: Scene, step: Step, _: str) -> Any:
        if not before:
            await step()
        scene.instance.steps.dead = True
        raise Killed

    strike.__name__ = f"killed_{'before' if before else 'after'}"
    return strike


KINDS: list[Strike] = [
    fails,
    fails_after,
    fails_from_then,
    fails_from_after,
    fails_refused,
    loses_its_lease,
    cancelled(before=True),
    cancelled(before=False),
    killed(before=True),
    killed(before=False),
]


async def count_steps(*, renews: bool, subject: Subject = SUBJECTS["ecdsa"]) -> list[str]:
    scene = Scene(renews=renews, subject=subject)
    await scene.begin()
    assert await scene.ask() is not None
    taken = [*scene.instance.steps.taken]
    await scene.close()
    return taken


async def play(kind: Strike, at: int, *, renews: bool, subject: Subject = SUBJECTS["ecdsa"]) -> None:
    """Break one step, ask ten times within the back-off, then end the fault, and ask until there is a certificate."""
    scene = Scene(renews=renews, subject=subject)
    await scene.begin()

    async def strike(step: Step, what: str) -> Any:
        return await kind(scene, step, what)

    scene.instance.steps.at = at
    scene.instance.steps.strike = strike
    try:
        certificate = await scene.ask()
    except Killed:
        certificate = None
    if kind.__name__.startswith(("killed", "cancelled")):
        await scene.restart()
    refused = kind is fails_refused and scene.instances[0].steps.taken[at - 1].startswith("CA ")
    ordered = refused or len(scene.ca.orders) == 1
    backs_off = kind.__name__.startswith("fails") and certificate is None and ordered
    requests = len(scene.ca.requests)
    for _ in range(REQUESTS):
        certificate = certificate or await scene.ask()
    where = f"{kind.__name__} at step {at}, {scene.instances[0].steps.taken[at - 1]!r}"
    if backs_off:
        assert len(scene.ca.requests) == requests, where
        assert (await scene.instance.states.load(subject.cert_key)).retry_at > scene.clock.now(), where
    assert len(scene.ca.orders) <= 1, where
    survived = not kind.__name__.startswith("killed") and scene.instances[0].steps.learned_of_order
    learned = survived or (await scene.state()).orders
    if certificate is None:
        certificate = await scene.settle()
    assert certificate.names == {*subject.names}
    assert certificate.family is subject.family
    # Another order may follow only where the CA's answer to the first one was lost.
    assert len(scene.ca.orders) <= (1 if learned else 2), where
    assert await scene.shared.get(subject.cert_key) == certificate.stored, where
    assert (await scene.state()).retry_at <= scene.clock.now(), where
    await scene.close()


@pytest.mark.parametrize("renews", [False, True], ids=["new", "renewal"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_one_order_whatever_step_fails(kind: Strike, renews: bool) -> None:
    steps = await count_steps(renews=renews)
    assert [step for step in steps if step == "CA newOrder"] == ["CA newOrder"]
    for at in range(1, len(steps) + 1):
        await play(kind, at, renews=renews)


OTHER_KEYS = [
    pytest.param(fails_from_after, "rsa", id="rsa-fails_from_after"),  # the others say no more, and such keys take time
    *(pytest.param(kind, "wildcard", id=f"wildcard-{kind.__name__}") for kind in KINDS),
]


@pytest.mark.parametrize(("kind", "subject"), OTHER_KEYS)
async def test_one_order_a_certificate_whatever_its_key_is_stored_under(kind: Strike, subject: str) -> None:
    steps = await count_steps(renews=False, subject=SUBJECTS[subject])
    assert f"put {SUBJECTS[subject].cert_key}" in steps
    for at in range(1, len(steps) + 1):
        await play(kind, at, renews=False, subject=SUBJECTS[subject])


@pytest.mark.parametrize("stuck", SUBJECTS)
async def test_a_state_that_is_stuck_holds_up_no_other_certificate_for_the_name(stuck: str) -> None:
    scene = Scene(renews=False)
    await scene.begin()
    scene.instance.storage.refuses = lambda what: what == f"put _state/{SUBJECTS[stuck].cert_key}"
    for _ in range(3):
        assert await scene.clock.run(scene.instance.ask(subject=SUBJECTS[stuck])) is None
        await scene.clock.advance(1)
    others = [subject for name, subject in SUBJECTS.items() if name != stuck]
    for subject in others:
        assert await scene.clock.run(scene.instance.ask(subject=subject)) is not None
        assert await scene.clock.run(scene.instance.ask(subject=SUBJECTS[stuck])) is None
    assert len(scene.ca.orders) == len(others)
    await scene.close()


async def test_an_order_that_is_held_in_memory_is_resumed_for_its_own_certificate_alone() -> None:
    scene = Scene(renews=False)
    await scene.begin()
    for subject in SUBJECTS.values():
        scene.instance.steps.taken.clear()
        scene.instance.storage.refuses = lambda _: "CA newOrder" in scene.instance.steps.taken
        assert await scene.clock.run(scene.instance.ask(subject=subject)) is None
        scene.instance.storage.refuses = lambda _: False
        await scene.clock.advance(1)
    assert all(scene.instance.states.holds(subject.cert_key) for subject in SUBJECTS.values())
    await scene.clock.advance(BACK_OFF)
    for subject in SUBJECTS.values():
        certificate = await scene.clock.run(scene.instance.ask(subject=subject))
        assert certificate is not None
        assert certificate.names == {*subject.names}
        assert certificate.family is subject.family
        assert not scene.instance.states.holds(subject.cert_key)
    assert len(scene.ca.orders) == len(SUBJECTS)
    await scene.close()


@pytest.mark.parametrize("renews", [False, True], ids=["new", "renewal"])
async def test_one_order_whatever_log_line_fails(renews: bool) -> None:
    scenes = [Scene(renews=renews)]
    await scenes[0].begin()
    lines = break_log()
    await scenes[0].ask()
    assert "acme.order.created" in lines
    for at, line in enumerate(lines, 1):
        break_log()
        scenes.append(Scene(renews=renews))
        await scenes[-1].begin()
        break_log(at)
        for _ in range(REQUESTS):
            await scenes[-1].ask()
        assert len(scenes[-1].ca.orders) <= 1, line
        await scenes[-1].settle()
        assert len(scenes[-1].ca.orders) == 1, line
    for scene in scenes:
        await scene.close()


async def test_what_an_order_needs_is_stored_before_it_is_placed() -> None:
    steps = await count_steps(renews=False)
    before = steps[: steps.index("CA newOrder")]
    assert f"put _state/{NAME}" in before
    assert "schedule renewal" in before
    after = steps[steps.index("CA newOrder") + 1 :]
    assert after[0] == f"put _state/{NAME}"


TOP_LEVEL = ("put n", "put ~")
BEFORE_ORDERS = ("put _state/", "put _budgets/", "schedule renewal", "acquire budgets/")


@pytest.mark.parametrize("refused", [*BEFORE_ORDERS, "put _challenges/", "put _issued/", TOP_LEVEL])
async def test_no_order_is_placed_for_other_names_after_a_write_failed(refused: str | tuple[str, ...]) -> None:
    scene = Scene(renews=False)
    await scene.begin()
    scene.instance.storage.refuses = lambda what: what.startswith(refused)
    names = [f"n{number}.example" for number in range(5)]
    for name in names:
        await scene.clock.run(scene.instance.ask(subject=Subject(name, (name,))))
        await scene.clock.advance(2)
    assert len(scene.ca.orders) == (0 if refused in BEFORE_ORDERS else 1)
    scene.instance.storage.refuses = lambda _: False
    await scene.clock.advance(BACK_OFF)
    for name in names:
        assert await scene.clock.run(scene.instance.ask(subject=Subject(name, (name,)))) is not None
    assert len(scene.ca.orders) == len(names)
    await scene.close()


async def test_a_budget_that_stays_locked_after_an_order_failed_costs_no_other_order() -> None:
    scene, time = Scene(renews=False), LoopTime()
    await scene.begin()
    scene.ca.responder = lambda *_: "not what the CA looks for"
    steps = await count_steps(renews=False)
    [budget] = [step.removeprefix("acquire ") for step in steps if step.startswith("acquire budgets/")]

    async def lock(step: Step, _: str) -> Any:
        await scene.shared.acquire(budget, 1e9)
        return await step()

    scene.instance.steps.at = steps.index("CA challenge") + 1
    scene.instance.steps.strike = lock
    asking = asyncio.create_task(scene.instance.ask())
    while not asking.done():
        await scene.clock.advance(5)
        await time.advance(5)
    scene.shared._leases.pop(budget)
    for _ in range(REQUESTS):
        assert await scene.ask() is None
    assert len(scene.ca.orders) == 1
    assert (await load_state(scene.shared, NAME)).retry_at > scene.clock.now()
    await scene.close()


@pytest.mark.parametrize("refuses_orders", [False, True], ids=["authorization", "order"])
async def test_a_name_backs_off_longer_each_time_though_its_failure_can_not_be_counted(refuses_orders: bool) -> None:
    scene, before = Scene(renews=False), 0
    await scene.begin()
    scene.ca.responder = lambda *_: "not what the CA looks for"
    if refuses_orders:
        scene.ca.fail("newOrder", *[problem("rejectedIdentifier") for _ in range(REQUESTS * 10)])

    def asked() -> int:
        return scene.ca.requests.count("newOrder")

    # Only after the CA was asked; and all other keys of the folder can be written.
    kind = "new_orders" if refuses_orders else "failed_authorizations"
    scene.instance.storage.refuses = lambda what: f"/{kind}/" in what and asked() > before
    for _ in range(REQUESTS * 10):
        before = asked()
        assert await scene.ask() is None
        await scene.clock.advance(60)
    # At once, after 1 minute, after 10 more, and a fourth time at most within 100 minutes.
    assert 3 <= asked() <= 4
    assert (await load_state(scene.shared, NAME)).failures == asked()
    await scene.close()


async def test_no_order_is_sent_again_under_a_lease_that_may_have_lapsed() -> None:
    """A process that was stopped while a nonce was fetched, or while it waited to retry, goes on where it was."""
    scene = Scene(renews=False)
    await scene.begin()
    steps = await count_steps(renews=False)

    async def stop(step: Step, _: str) -> Any:
        scene.ca.bad_nonces = 1
        answer = await step()
        scene.clock.stand_still(LEASE)
        return answer

    scene.instance.steps.at = steps.index("CA newOrder") + 1
    scene.instance.steps.strike = stop
    assert await scene.ask() is None
    assert scene.ca.orders == []
    assert scene.ca.requests.count("newOrder") == 1
    await scene.close()
