"""`python -m cmserverd.cmboxpgm`: the licensor's tool."""

import sys

from cmserverd.cmboxpgm.main import main

sys.exit(main())
