"""`python -m sptsr.test -opt X.yml` is `sptsr test -opt X.yml`, for launchers that start modules."""

import sys

from sptsr.commands.line import main

if __name__ == '__main__':
    raise SystemExit(main(['test', *sys.argv[1:]]))
