"""Makes `python -m cmserverd.cmu` the tool, where the command `cmu` is not installed."""

import sys

from cmserverd.cmu.main import main

sys.exit(main())
