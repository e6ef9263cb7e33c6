"""What is kept of submissions: bounded, and finished in the order that the specification gives."""

from __future__ import annotations

from typing import Any

from extmem.submitted import MOST, Batch, Submitted


def made(submitted: Submitted, *queues: int) -> list[Batch]:
    batches = [Batch(queue) for queue in queues]
    for batch in batches:
        submitted.add([batch])
    return batches


def test_what_has_ended_ends_what_came_before() -> None:
    submitted = Submitted()
    one, two, three, other = made(submitted, 1, 1, 1, 2)
    submitted.finish(two)
    assert [each.finished for each in (one, two, three, other)] == [True, True, False, False]
    assert list(submitted) == [three, other]
    submitted.finish(two)  # once more changes nothing
    submitted.finish_queue(2)
    assert other.finished
    submitted.finish_queue(77)
    submitted.finish_all()
    assert (three.finished, len(submitted)) == (True, 0)


def test_the_end_travels_along_binary_semaphores() -> None:
    submitted = Submitted()
    before, signal, behind = made(submitted, 1, 1, 1)
    wait = Batch(2, after=[signal])
    submitted.add([wait])
    submitted.finish(wait)
    assert (before.finished, signal.finished, behind.finished) == (True, True, False)
    assert wait.after == []  # holds on to nothing


def test_the_oldest_are_forgotten() -> None:
    submitted = Submitted()
    first, *rest = made(submitted, *[1] * (MOST + 1))
    assert (first.forgotten, first.finished) == (True, False)
    assert len(submitted) == MOST
    last = rest[-1]
    last.after.append(first)
    submitted.finish(last)
    assert len(submitted) == 0
    assert not first.finished


def test_long_chains_are_let_go() -> None:
    submitted, before = Submitted(), None
    kept: list[Any] = []
    for _ in range(3 * MOST):
        batch = Batch(1, after=[before] if before is not None else [])
        submitted.add([batch])
        kept.append(batch)
        before = batch
    assert all(each.after == [] for each in kept[:-MOST])


def test_what_was_not_taken_is_withdrawn() -> None:
    submitted = Submitted()
    one, two = made(submitted, 1, 1)
    submitted.withdraw([two])
    assert list(submitted) == [one]
    assert not one.finished
