"""What `glreadback --version` says: what is in use here, as a bug report needs it."""

from __future__ import annotations

from collections.abc import Iterator

from .. import __version__


def lines() -> Iterator[str]:
    """glreadback's, PyOpenGL's and Mesa's versions, each as soon as it is known: a bad driver may end the process."""
    yield f"glreadback {__version__}"
    yield _pyopengl()
    yield _mesa()


def _pyopengl() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"PyOpenGL {version('PyOpenGL')}"
    except PackageNotFoundError:
        return "PyOpenGL is missing"


def _mesa() -> str:
    """The software device's driver by GL_VERSION and GL_RENDERER, or why there is none."""
    try:
        from ..importer import Importer

        importer = Importer("software")
        try:
            version, renderer = importer.capabilities.version, importer.capabilities.renderer
        finally:
            importer.close()
    except Exception as error:  # no library, no driver, a broken one: the other versions are no less true
        return f"Mesa: no software device: {' '.join(str(error).split()) or type(error).__name__}"
    _, mesa, rest = version.partition("Mesa ")
    return f"Mesa {rest}, {renderer}" if mesa else f"{version}, {renderer}"
