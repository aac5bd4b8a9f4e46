"""The command line in a process whose files may not grow beyond so many bytes, as on a disk that is full.

python full_disk.py BYTES COMMAND ...
"""

from __future__ import annotations

import resource
import sys

from vitrim import cli

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    sys.exit(cli.main(sys.argv[2:]))
