"""EGL: devices and displays, contexts, images of dma-bufs, fences. With gl/, the only importer of OpenGL.*"""
