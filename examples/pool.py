"""Memory as an argument of multiprocessing, not copied: python examples/pool.py"""

import multiprocessing

import extmem

WORKERS, ROWS, COLUMNS = 2, 480, 640


def work(memory: extmem.Memory, done: "multiprocessing.Queue", part: int) -> None:
    """Another process. What it gets is the same memory."""
    table = memory.numpy("float32", (ROWS, COLUMNS))
    rows = table[part::WORKERS]
    rows *= 2
    done.put((part, float(rows.sum())))
    del table, rows  # memory that is still looked at cannot be closed
    memory.close()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with (
        extmem.open_device() as gpu,
        gpu.allocate(ROWS * COLUMNS * 4, export="opaque_win32") as memory,
    ):
        table = memory.numpy("float32", (ROWS, COLUMNS))
        table[:] = 1
        done = context.Queue()
        workers = [context.Process(target=work, args=(memory, done, n)) for n in range(WORKERS)]
        for each in workers:
            each.start()
        for part, total in sorted(done.get() for _ in workers):
            print(f"worker {part} made its rows {total:.0f}", flush=True)
        for each in workers:
            each.join()
        print(f"here it is {table.sum():.0f}")
        del table


if __name__ == "__main__":
    main()
