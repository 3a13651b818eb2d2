"""`python -m vsodpipe` is the same program as `vsodpipe`."""

from vsodpipe.cli import main

if __name__ == "__main__":
    main()
