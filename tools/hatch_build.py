"""Hatchling's hook for the wheel: shell completion and the manual page are made of the tree's own parsers, put into it.

They are data files of the wheel, which pip lays below the installation's prefix, where shells and man(1) look. The tree
itself gets no new file. Neither PyOpenGL nor numpy has to be there: building is done in an environment of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShellFiles(BuildHookInterface[Any]):
    """Adds share/… to a wheel, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        for place, text in self._files().items():
            path = Path(self._folder.name, place)
            path.parent.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()

    def _files(self) -> dict[str, str]:
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(Path(self.root, "tools")))
        import gen_completion
        import gen_manual

        found = {place: gen_completion.script(shell) for shell, place in gen_completion.PLACES.items()}
        return {**found, gen_manual.PLACE: gen_manual.page()}
