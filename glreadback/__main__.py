"""`python -m glreadback` is the command `glreadback`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
