"""Windows handles between Linux processes: a small service for each user, and its client.

The service keeps a handle table for each process of its user, one namespace, access rights and the
descriptors behind them. It starts with the first use and leaves when nobody needs it.

What a process has ends with its program: with the process, and when `execve` puts another program
into it, which closes its connections and says Hello anew with a number of its own. Until the new
program does that, the directory sees a process that goes on, and keeps what the old one had.

    folder.py      where it lives: one folder, which is the user's alone
    protocol.py    what is said, and how much of it
    limits.py      how much one client may have, and all of them
    items.py       what handles stand for, beside sections: descriptors of drivers, things borrowed
    state.py       objects, tables, names and rights; no sockets
    stamps.py      passports that lie in the pages of a section
    rights.py      which rights a handle gets
    accounts.py    the processes that have tables, and what each of them made
    inheritance.py tokens, by which a child gets its parent's handles
    processes.py   who a process is, and whether it still runs
    connection.py  one connection of the service
    requests.py    what the service does for each request
    foreign.py     Global\\ names, which other users' directories have
    global_names.py requests that need those
    service.py     the loop
    starting.py    find the service, or start it
    client.py      the kernel that programs ask
"""
