"""EGL: devices and displays, contexts, images of dma-bufs, fences. With gl/, the only importer of OpenGL.*"""

import os

# PyOpenGL picks GLX where it is not told, and that platform has no GLES. This runs before any module here or in gl/
# imports OpenGL; whoever imported it first has decided.
os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
