"""GL: capabilities, textures over EGL images, reading pixels, drawing with the programs of shaders/."""
