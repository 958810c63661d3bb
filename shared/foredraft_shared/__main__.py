"""``python -m foredraft_shared`` is ``foredraft``, for when the script is not on the path."""

import sys

from .command import main

sys.exit(main())
