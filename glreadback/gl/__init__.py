"""GL: capabilities, textures over EGL images, reading pixels, drawing with the programs of shaders/."""

from .. import egl as egl  # sets the platform before OpenGL is imported
