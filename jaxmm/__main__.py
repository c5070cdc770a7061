"""``python -m jaxmm study spec.toml --shard 3/16``"""

import sys

from jaxmm.command.main import main

if __name__ == "__main__":
    sys.exit(main())
