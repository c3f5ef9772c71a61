"""`python -m sptsr` is the same as the console script `sptsr`."""

from sptsr.commands.line import main

if __name__ == '__main__':
    raise SystemExit(main())
