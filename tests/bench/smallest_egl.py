"""The smallest Python program with a current EGL context of the software device: the yardstick of the start-up cost.

It imports OpenGL.EGL and OpenGL.GLES3, as every read through GL has to, and does nothing with the context.
"""

import ctypes
import os

os.environ["PYOPENGL_PLATFORM"] = "egl"

from OpenGL import EGL as egl
from OpenGL import GLES3 as gl
from OpenGL.EGL.EXT.device_enumeration import eglQueryDevicesEXT
from OpenGL.EGL.EXT.device_query import eglQueryDeviceStringEXT
from OpenGL.EGL.EXT.platform_base import eglGetPlatformDisplayEXT

devices, count = (egl.EGLDeviceEXT * 64)(), ctypes.c_int()
eglQueryDevicesEXT(64, devices, count)
software = next(
    d for d in devices[: count.value] if b"EGL_MESA_device_software" in eglQueryDeviceStringEXT(d, egl.EGL_EXTENSIONS)
)
display = eglGetPlatformDisplayEXT(0x313F, software, None)  # EGL_PLATFORM_DEVICE_EXT
egl.eglInitialize(display, ctypes.c_int(), ctypes.c_int())
egl.eglBindAPI(egl.EGL_OPENGL_ES_API)
context = egl.eglCreateContext(display, None, egl.EGL_NO_CONTEXT, [egl.EGL_CONTEXT_CLIENT_VERSION, 3, egl.EGL_NONE])
egl.eglMakeCurrent(display, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, context)
assert gl.glGetError() == gl.GL_NO_ERROR
