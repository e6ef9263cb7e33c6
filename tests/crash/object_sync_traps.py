"""Semaphores and fences as objects: values, times, closed ones, those of others."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec

import extmem
from extmem import ClosedError, PassportError, Unsupported
from tests.crash.scene import Scene
from tests.crash.trap import trap

# -- values and times -----------------------------------------------------------------------------


@trap(ValueError, says="the value -1 does not fit into 64 bits")
def wait_for_a_negative_value(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(-1)


@trap(ValueError, says=r"the value \d+ does not fit into 64 bits")
def wait_for_a_value_of_more_than_64_bits(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(1 << 64)


@trap(TypeError, says="the value of .* is 1.5")
def wait_for_one_and_a_half(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(1.5)  # type: ignore[arg-type]


@trap(TimeoutError, says="has reached 0 and not 5 after 0")
def wait_without_time(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(5, timeout=0)


@trap(ValueError, TimeoutError, says="timeout|-1|negative")
def wait_with_less_than_no_time(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(5, timeout=-1)


@trap(ValueError, says="timeout|nan")
def wait_with_a_time_that_is_no_number(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(5, timeout=float("nan"))


@trap(TypeError, says="timeout|str|number")
def wait_with_a_time_in_words(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.wait(5, timeout="soon")  # type: ignore[arg-type]


@trap(Unsupported, says="is binary, and the host cannot wait for it")
def wait_of_the_host_for_a_binary_one(here: Scene) -> None:
    with here.gpu.semaphore(timeline=False) as done:
        done.wait(1)


@trap("VUID-VkSemaphoreSignalInfo-value-03258")
def signal_that_goes_back(here: Scene) -> None:
    with here.gpu.semaphore(value=9) as done:
        done.signal(3)


@trap("VUID-VkSemaphoreSignalInfo-value-03258")
def signal_of_what_it_has_come_to(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.signal(4)
        done.signal(4)


@trap(ValueError, says="the value -7 does not fit")
def signal_of_a_negative_value(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.signal(-7)


@trap(TypeError, says="the value of .* is None")
def signal_of_nothing(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.signal(None)  # type: ignore[arg-type]


@trap(ClosedError, says="this semaphore is closed")
def wait_for_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        pass
    done.wait(1, timeout=1)


@trap(ClosedError, says="this semaphore is closed")
def signal_of_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.signal(1)
    done.signal(2)


@trap(ClosedError, says="this semaphore is closed")
def value_of_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        pass
    assert done.value


@trap(ClosedError, says="this semaphore is closed")
def promise_of_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        pass
    asyncio.run(done.reached(1))


@trap(ValueError, says="value is 5, but only timelines have values")
def binary_one_that_starts_with_a_value(here: Scene) -> None:
    here.gpu.semaphore(timeline=False, value=5)


@trap(ValueError, says="initialValue was given -1, which does not fit")
def timeline_that_starts_below_nothing(here: Scene) -> None:
    here.gpu.semaphore(value=-1)


@trap(ValueError, says="a semaphore of the host has to be a timeline")
def binary_one_of_the_host(here: Scene) -> None:
    here.gpu.semaphore(timeline=False, host=True)


@trap(ValueError, says="handle type 'nonsense' of a semaphore")
def semaphore_exported_as_what_nobody_knows(here: Scene) -> None:
    here.gpu.semaphore(export="nonsense")


@trap(Unsupported, says="name= belongs to a Windows handle")
def name_of_a_private_semaphore(here: Scene) -> None:
    here.gpu.semaphore(name=r"Local\done")


@trap(ValueError, says="this semaphore can be exported as: none")
def export_of_a_private_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        done.export()


@trap(ClosedError, says="this semaphore is closed")
def export_of_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done:
        pass
    done.export()


@trap(Unsupported, says="was not made to be exported as opaque_win32_kmt")
def export_of_a_semaphore_as_another_type(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done:
        done.export("opaque_win32_kmt")


# -- imports --------------------------------------------------------------------------------------


@trap(ValueError, says="pass a handle to import, or a name")
def semaphore_of_nothing(here: Scene) -> None:
    here.gpu.import_semaphore()


@trap(ValueError, says="pass handle_type=: a bare number does not tell what it is")
def semaphore_of_a_number_alone(here: Scene) -> None:
    here.gpu.import_semaphore(3)


@trap("VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01468")
def semaphore_of_a_dead_handle(here: Scene) -> None:
    here.gpu.import_semaphore(0x7FFC, handle_type="opaque_win32", timeline=True, host=True)


@trap("VUID-VkImportSemaphoreWin32HandleInfoKHR-handleType-01467")
def semaphore_of_a_name_that_nobody_holds(here: Scene) -> None:
    here.gpu.import_semaphore(name=r"Local\nobody-signals-this", host=True)


@trap("VUID-VkImportSemaphoreFdInfoKHR-fd-01544", Unsupported, says="cannot import", on="linux")
def semaphore_of_a_pipe(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(writing)
    here.gpu.import_semaphore(here.fd(reading), handle_type="opaque_fd", timeline=False)


@trap("VUID-VkImportSemaphoreFdInfoKHR-fd-01544", on="linux")
def semaphore_of_the_host_of_an_event_counter(here: Scene) -> None:
    counter = here.fd(os.eventfd(0))
    here.gpu.import_semaphore(counter, handle_type="opaque_fd", timeline=True, host=True)


@trap(PassportError, says="is False, but the passport of this semaphore says True")
def timeline_that_is_called_binary(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done, done.export() as handle:
        here.gpu.import_semaphore(handle, timeline=False)


@trap(PassportError, says="passport")
def semaphore_with_a_passport_of_noise(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done, done.export() as handle:
        here.gpu.import_semaphore(handle.value, passport=os.urandom(99), host=True)


@trap(PassportError, says="it is a fence, and this is an import of a semaphore")
def semaphore_with_the_passport_of_a_fence(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done, done.export() as handle:
        passport: Any = handle.passport
        forged = msgspec.structs.replace(passport, object="fence")
        here.gpu.import_semaphore(handle.value, passport=forged, host=True)


@trap(ValueError, says="is no semaphore; import it with Device.import_memory")
def semaphore_of_a_handle_of_memory(here: Scene) -> None:
    kind = "opaque_fd" if sys.platform == "linux" else "opaque_win32"
    with here.gpu.allocate(64, export=kind) as memory, memory.export() as handle:
        here.gpu.import_semaphore(handle)


@trap(ValueError, says="is no fence; import it with Device.import_semaphore")
def fence_of_a_handle_of_a_semaphore(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done, done.export() as handle:
        here.gpu.import_fence(handle)


@trap(ClosedError, says="handle is closed")
def semaphore_of_a_closed_handle(here: Scene) -> None:
    with here.gpu.semaphore(host=True, export="opaque_win32") as done:
        with done.export() as handle:
            pass
        here.gpu.import_semaphore(handle)


# -- submissions ----------------------------------------------------------------------------------


@trap(TypeError, says="wait= has 7; expected a list")
def submission_that_waits_for_a_number(here: Scene) -> None:
    here.gpu.submit(wait=[7])  # type: ignore[list-item]


@trap(TypeError, says="the value of .* is None; expected \\(semaphore, value\\)")
def submission_with_a_timeline_and_no_value(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        here.gpu.submit(signal=[done])


@trap(ValueError, says="is binary and has no values; pass it bare")
def submission_with_a_binary_one_and_a_value(here: Scene) -> None:
    with here.gpu.semaphore(timeline=False) as done:
        here.gpu.submit(signal=[(done, 3)])


@trap(ValueError, says="is of another device; export it, and import it on this one")
def submission_with_a_semaphore_of_another_gpu(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as other, other.semaphore() as theirs:
        here.gpu.submit(signal=[(theirs, 1)])


@trap(ClosedError, says="this semaphore is closed")
def submission_with_a_closed_semaphore(here: Scene) -> None:
    with here.gpu.semaphore() as done:
        pass
    here.gpu.submit(signal=[(done, 1)])


@trap("VUID-VkSubmitInfo-pSignalSemaphores-03242")
def submission_that_goes_back(here: Scene) -> None:
    with here.gpu.semaphore(value=9) as done:
        here.gpu.submit(signal=[(done, 3)])


@trap("VUID-vkQueueSubmit-pWaitSemaphores-03238")
def submission_that_waits_for_what_nobody_signals(here: Scene) -> None:
    with here.gpu.semaphore(timeline=False) as never:
        here.gpu.submit(wait=[never])


@trap("VUID-vkQueueSubmit-fence-00063")
def submission_with_a_fence_that_was_not_reset(here: Scene) -> None:
    with here.gpu.fence() as fence:
        here.gpu.submit(fence=fence)
        fence.wait(5)
        here.gpu.submit(fence=fence)


@trap(ClosedError, says="this fence is closed")
def submission_with_a_closed_fence(here: Scene) -> None:
    with here.gpu.fence() as fence:
        pass
    here.gpu.submit(fence=fence)


@trap(ValueError, says="is of another device")
def submission_with_a_fence_of_another_gpu(here: Scene) -> None:
    with extmem.open_device(driver=here.driver) as other, other.fence() as theirs:
        here.gpu.submit(fence=theirs)


@trap(TimeoutError, says="the fence is not signaled after 0")
def wait_for_a_fence_that_nobody_signals(here: Scene) -> None:
    with here.gpu.fence() as fence:
        fence.wait(0)


@trap(ClosedError, says="this fence is closed")
def reset_of_a_closed_fence(here: Scene) -> None:
    with here.gpu.fence() as fence:
        pass
    fence.reset()


@trap(ValueError, says="there is nothing to wait for")
def wait_for_any_of_nothing(here: Scene) -> None:
    extmem.wait_any([])


@trap(TypeError, ValueError, says="semaphore|expected|pair")
def wait_for_all_of_what_are_no_semaphores(here: Scene) -> None:
    extmem.wait_all([("one", 1), ("two", 2)])  # type: ignore[list-item]
