"""`python -m sptsr.train -opt X.yml` is `sptsr train -opt X.yml`, for launchers that start modules."""

import sys

from sptsr.commands.line import main

if __name__ == '__main__':
    raise SystemExit(main(['train', *sys.argv[1:]]))
