"""`python -m extmem` is the command line."""

from extmem.cli import main

if __name__ == "__main__":
    main()
