"""All the state of a GL context that can be asked for, and a way to set most of it to unusual values. Context current.

Written from the state tables of OpenGL ES 3.2 (chapter 21) and OpenGL 4.6 (chapter 23), not from what glreadback touches.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from glreadback.egl.gaps import egl

Value = tuple[Any, ...] | int | str
State = dict[str, Value]
ESSL_TYPES = {"vertex": 0x8B31, "fragment": 0x8B30}


class Functions:
    """GL by eglGetProcAddress: ints go in as they are, floats as c_float, memory as ctypes arrays or None."""

    def __getattr__(self, name: str) -> Any:
        address = ctypes.cast(egl.eglGetProcAddress(f"gl{name}".encode()), ctypes.c_void_p).value
        assert address, name
        result = ctypes.c_char_p if name in ("GetString", "GetStringi") else ctypes.c_uint
        made = ctypes.CFUNCTYPE(result)(address)
        setattr(self, name, made)
        return made


gl = Functions()


def one(call: Any, *before: int) -> int:
    """A name from one of GL's glGen functions."""
    name = ctypes.c_uint()
    call(*before, 1, ctypes.byref(name))
    return name.value


def floats(*values: float) -> list[ctypes.c_float]:
    return [ctypes.c_float(value) for value in values]


def clear_errors() -> None:
    while gl.GetError():
        pass


def is_desktop() -> bool:
    return not gl.GetString(0x1F02).startswith(b"OpenGL ES")


def version() -> int:
    found = (ctypes.c_int * 2)()
    gl.GetIntegerv(0x821B, ctypes.byref(found))
    gl.GetIntegerv(0x821C, ctypes.byref(found, 4))
    return found[0] * 10 + found[1]


def extensions() -> set[str]:
    count = ctypes.c_int()
    gl.GetIntegerv(0x821D, ctypes.byref(count))
    return {gl.GetStringi(0x1F03, index).decode() for index in range(count.value)}


# ---- what there is to ask

VALUES = {
    # buffers, programs, objects
    "CURRENT_PROGRAM": 0x8B8D, "PROGRAM_PIPELINE_BINDING": 0x825A, "VERTEX_ARRAY_BINDING": 0x85B5,
    "ARRAY_BUFFER_BINDING": 0x8894, "ELEMENT_ARRAY_BUFFER_BINDING": 0x8895, "COPY_READ_BUFFER_BINDING": 0x8F36,
    "COPY_WRITE_BUFFER_BINDING": 0x8F37, "PIXEL_PACK_BUFFER_BINDING": 0x88ED, "PIXEL_UNPACK_BUFFER_BINDING": 0x88EF,
    "UNIFORM_BUFFER_BINDING": 0x8A28, "TRANSFORM_FEEDBACK_BUFFER_BINDING": 0x8C8F, "TRANSFORM_FEEDBACK_BINDING": 0x8E25,
    "TRANSFORM_FEEDBACK_ACTIVE": 0x8E24, "TRANSFORM_FEEDBACK_PAUSED": 0x8E23, "DRAW_INDIRECT_BUFFER_BINDING": 0x8F43,
    "DISPATCH_INDIRECT_BUFFER_BINDING": 0x90EF, "SHADER_STORAGE_BUFFER_BINDING": 0x90D3, "QUERY_BUFFER_BINDING": 0x9193,
    "ATOMIC_COUNTER_BUFFER_BINDING": 0x92C1, "TEXTURE_BUFFER_BINDING": 0x8C2A, "DRAW_FRAMEBUFFER_BINDING": 0x8CA6,
    "READ_FRAMEBUFFER_BINDING": 0x8CAA, "RENDERBUFFER_BINDING": 0x8CA7, "ACTIVE_TEXTURE": 0x84E0, "READ_BUFFER": 0x0C02,
    "DRAW_BUFFER": 0x0C01, **{f"DRAW_BUFFER{n}": 0x8825 + n for n in range(8)},
    "CLIENT_ACTIVE_TEXTURE": 0x84E1, "TRANSFORM_FEEDBACK": 0x8E22,
    # pixels
    "PACK_SWAP_BYTES": 0x0D00, "PACK_LSB_FIRST": 0x0D01, "PACK_ROW_LENGTH": 0x0D02, "PACK_SKIP_ROWS": 0x0D03,
    "PACK_SKIP_PIXELS": 0x0D04, "PACK_ALIGNMENT": 0x0D05, "PACK_SKIP_IMAGES": 0x806B, "PACK_IMAGE_HEIGHT": 0x806C,
    "UNPACK_SWAP_BYTES": 0x0CF0, "UNPACK_LSB_FIRST": 0x0CF1, "UNPACK_ROW_LENGTH": 0x0CF2, "UNPACK_SKIP_ROWS": 0x0CF3,
    "UNPACK_SKIP_PIXELS": 0x0CF4, "UNPACK_ALIGNMENT": 0x0CF5, "UNPACK_SKIP_IMAGES": 0x806D, "UNPACK_IMAGE_HEIGHT": 0x806E,
    "PACK_INVERT_MESA": 0x8758, "PACK_REVERSE_ROW_ORDER_ANGLE": 0x93A4, "CLAMP_READ_COLOR": 0x891C,
    "CLAMP_VERTEX_COLOR": 0x891A, "CLAMP_FRAGMENT_COLOR": 0x891B,
    **{f"(UN)PACK_COMPRESSED_BLOCK {n:#x}": n for n in range(0x9127, 0x912F)},
    "MAP_COLOR": 0x0D10, "MAP_STENCIL": 0x0D11, "INDEX_SHIFT": 0x0D12, "INDEX_OFFSET": 0x0D13,
    **{f"pixel transfer {n:#x}": n for n in range(0x0D14, 0x0D20)},
    # what becomes of fragments
    "VIEWPORT": 0x0BA2, "DEPTH_RANGE": 0x0B70, "SCISSOR_BOX": 0x0C10, "COLOR_WRITEMASK": 0x0C23, "DEPTH_WRITEMASK": 0x0B72,
    "STENCIL_WRITEMASK": 0x0B98, "STENCIL_BACK_WRITEMASK": 0x8CA5, "STENCIL_FUNC": 0x0B92, "STENCIL_VALUE_MASK": 0x0B93,
    "STENCIL_REF": 0x0B97, "STENCIL_FAIL": 0x0B94, "STENCIL_PASS_DEPTH_FAIL": 0x0B95, "STENCIL_PASS_DEPTH_PASS": 0x0B96,
    "STENCIL_BACK_FUNC": 0x8800, "STENCIL_BACK_FAIL": 0x8801, "STENCIL_BACK_REF": 0x8CA3, "STENCIL_BACK_VALUE_MASK": 0x8CA4,
    "DEPTH_FUNC": 0x0B74, "COLOR_CLEAR_VALUE": 0x0C22, "DEPTH_CLEAR_VALUE": 0x0B73, "STENCIL_CLEAR_VALUE": 0x0B91,
    "CULL_FACE_MODE": 0x0B45, "FRONT_FACE": 0x0B46, "LINE_WIDTH": 0x0B21, "POINT_SIZE": 0x0B11, "POLYGON_MODE": 0x0B40,
    "POLYGON_OFFSET_FACTOR": 0x8038, "POLYGON_OFFSET_UNITS": 0x2A00, "POLYGON_OFFSET_CLAMP": 0x8E1B,
    "SAMPLE_COVERAGE_VALUE": 0x80AA, "SAMPLE_COVERAGE_INVERT": 0x80AB, "MIN_SAMPLE_SHADING_VALUE": 0x8C37,
    "BLEND_COLOR": 0x8005, "BLEND_SRC_RGB": 0x80C9, "BLEND_DST_RGB": 0x80C8, "BLEND_SRC_ALPHA": 0x80CB,
    "BLEND_DST_ALPHA": 0x80CA, "BLEND_EQUATION_RGB": 0x8009, "BLEND_EQUATION_ALPHA": 0x883D, "LOGIC_OP_MODE": 0x0BF0,
    "CLIP_ORIGIN": 0x935C, "CLIP_DEPTH_MODE": 0x935D, "PROVOKING_VERTEX": 0x8E4F, "PRIMITIVE_RESTART_INDEX": 0x8F9E,
    "PATCH_VERTICES": 0x8E72, "PATCH_DEFAULT_INNER_LEVEL": 0x8E73, "PATCH_DEFAULT_OUTER_LEVEL": 0x8E74,
    "POINT_FADE_THRESHOLD_SIZE": 0x8128, "POINT_SPRITE_COORD_ORIGIN": 0x8CA0, "PRIMITIVE_BOUNDING_BOX": 0x92BE,
    "ALPHA_TEST_FUNC": 0x0BC1, "ALPHA_TEST_REF": 0x0BC2, "SHADE_MODEL": 0x0B54,
    # the rest
    "GENERATE_MIPMAP_HINT": 0x8192, "FRAGMENT_SHADER_DERIVATIVE_HINT": 0x8B8B, "LINE_SMOOTH_HINT": 0x0C52,
    "POLYGON_SMOOTH_HINT": 0x0C53, "TEXTURE_COMPRESSION_HINT": 0x84EF, "DEBUG_GROUP_STACK_DEPTH": 0x826D,
    "MAX_SHADER_COMPILER_THREADS": 0x91B0, "MATRIX_MODE": 0x0BA0, "CURRENT_COLOR": 0x0B00, "LIST_INDEX": 0x0B33,
    "IMPLEMENTATION_COLOR_READ_FORMAT": 0x8B9B, "IMPLEMENTATION_COLOR_READ_TYPE": 0x8B9A,
}  # fmt: skip
ENABLES = {
    "BLEND": 0x0BE2, "CULL_FACE": 0x0B44, "DEPTH_TEST": 0x0B71, "DITHER": 0x0BD0, "SCISSOR_TEST": 0x0C11,
    "STENCIL_TEST": 0x0B90, "POLYGON_OFFSET_FILL": 0x8037, "POLYGON_OFFSET_LINE": 0x2A02, "POLYGON_OFFSET_POINT": 0x2A01,
    "SAMPLE_ALPHA_TO_COVERAGE": 0x809E, "SAMPLE_ALPHA_TO_ONE": 0x809F, "SAMPLE_COVERAGE": 0x80A0, "SAMPLE_MASK": 0x8E51,
    "SAMPLE_SHADING": 0x8C36, "MULTISAMPLE": 0x809D, "RASTERIZER_DISCARD": 0x8C89, "PRIMITIVE_RESTART": 0x8F9D,
    "PRIMITIVE_RESTART_FIXED_INDEX": 0x8D69, "COLOR_LOGIC_OP": 0x0BF2, "FRAMEBUFFER_SRGB": 0x8DB9, "LINE_SMOOTH": 0x0B20,
    "POLYGON_SMOOTH": 0x0B41, "DEPTH_CLAMP": 0x864F, "PROGRAM_POINT_SIZE": 0x8642, "TEXTURE_CUBE_MAP_SEAMLESS": 0x884F,
    "DEBUG_OUTPUT": 0x92E0, "DEBUG_OUTPUT_SYNCHRONOUS": 0x8242, "ALPHA_TEST": 0x0BC0, "POLYGON_STIPPLE": 0x0B42,
    "LIGHTING": 0x0B50, "FOG": 0x0B60, "TEXTURE_2D": 0x0DE1, "COLOR_SUM": 0x8458, "NORMALIZE": 0x0BA1, "POINT_SPRITE": 0x8861,
    **{f"CLIP_DISTANCE{n}": 0x3000 + n for n in range(8)},
}  # fmt: skip
TEXTURE_BINDINGS = {
    "1D": 0x8068, "2D": 0x8069, "3D": 0x806A, "1D_ARRAY": 0x8C1C, "2D_ARRAY": 0x8C1D, "RECTANGLE": 0x84F6, "CUBE_MAP": 0x8514,
    "CUBE_MAP_ARRAY": 0x900A, "BUFFER": 0x8C2C, "2D_MULTISAMPLE": 0x9104, "2D_MULTISAMPLE_ARRAY": 0x9105,
    "EXTERNAL_OES": 0x8D67, "SAMPLER": 0x8919,
}  # fmt: skip
INDEXED = {  # name -> (query, how many)
    "COLOR_WRITEMASK": (0x0C23, 8), "BLEND_SRC_RGB": (0x80C9, 8), "BLEND_DST_RGB": (0x80C8, 8), "BLEND_SRC_ALPHA": (0x80CB, 8),
    "BLEND_DST_ALPHA": (0x80CA, 8), "BLEND_EQUATION_RGB": (0x8009, 8), "BLEND_EQUATION_ALPHA": (0x883D, 8),
    "VIEWPORT": (0x0BA2, 16), "SCISSOR_BOX": (0x0C10, 16), "DEPTH_RANGE": (0x0B70, 16), "SAMPLE_MASK_VALUE": (0x8E52, 1),
    **{f"UNIFORM_BUFFER {n:#x}": (n, 8) for n in (0x8A28, 0x8A29, 0x8A2A)},
    **{f"TRANSFORM_FEEDBACK_BUFFER {n:#x}": (n, 4) for n in (0x8C8F, 0x8C84, 0x8C85)},
    **{f"SHADER_STORAGE_BUFFER {n:#x}": (n, 8) for n in (0x90D3, 0x90D4, 0x90D5)},
    **{f"ATOMIC_COUNTER_BUFFER {n:#x}": (n, 1) for n in (0x92C1, 0x92C2, 0x92C3)},
    **{f"IMAGE {n:#x}": (n, 8) for n in (0x8F3A, 0x8F3B, 0x8F3C, 0x8F3D, 0x8F3E, 0x906E)},
    **{f"VERTEX_BINDING {n:#x}": (n, 8) for n in (0x82D6, 0x82D7, 0x82D8, 0x8F4F)},
}  # fmt: skip
INDEXED_ENABLES = {"BLEND": (0x0BE2, 8), "SCISSOR_TEST": (0x0C11, 16)}
QUERIES = {"SAMPLES_PASSED": 0x8914, "ANY_SAMPLES_PASSED": 0x8C2F, "PRIMITIVES_GENERATED": 0x8C87, "TIME_ELAPSED": 0x88BF,
           "TRANSFORM_FEEDBACK_PRIMITIVES_WRITTEN": 0x8C88}  # fmt: skip
TEXTURE_PARAMETERS = (0x2800, 0x2801, 0x2802, 0x2803, 0x813A, 0x813B, 0x813C, 0x813D, 0x8E42, 0x8E43, 0x8E44, 0x8E45, 0x884C)
OBJECTS = ("Texture", "Framebuffer", "Buffer", "Program", "Shader", "VertexArray", "Sampler", "Renderbuffer", "Query")
UNITS = 8


def _numbers(*call: Any) -> Value:
    """What a query gives, as whole numbers and as floats; how the context says no, if it does."""
    name, *arguments = call
    kinds: list[tuple[str, Any]] = [("Integer64", ctypes.c_int64), ("Float", ctypes.c_float)]
    end = "v"
    if len(arguments) == 2:
        end = "i_v"
        if name not in ("VIEWPORT", "DEPTH_RANGE"):  # which have fractions
            del kinds[1]
    found: list[Any] = []
    for kind, ctype in kinds:
        memory = (ctype * 16)(*[-77] * 16)
        own = "OES" if kind == "Float" and end == "i_v" and not is_desktop() else ""
        getattr(gl, f"Get{kind}{end}{own}")(*arguments, memory)
        error = gl.GetError()
        found.append(f"error {error:#x}" if error else tuple(memory))
    return tuple(found)


def state() -> State:
    """Everything, by name. Changes nothing."""
    assert gl.GetError() == 0
    found: State = {}
    for name, query in VALUES.items():
        found[name] = _numbers(name, query)
    for name, query in ENABLES.items():
        found[f"{name} enabled"] = gl.IsEnabled(query) & 0xFF, gl.GetError()
    many = version() >= 32 or is_desktop()
    for name, (query, count) in INDEXED.items() if many else ():
        for index in range(count):
            found[f"{name} {index}"] = _numbers(name, query, index)
    for name, (query, count) in INDEXED_ENABLES.items() if many else ():
        for index in range(count):
            found[f"{name} {index} enabled"] = gl.IsEnabledi(query, index) & 0xFF, gl.GetError()
    for name, query in QUERIES.items():
        current = ctypes.c_int(-77)
        gl.GetQueryiv(query, 0x8865, ctypes.byref(current))
        found[f"query {name}"] = current.value, gl.GetError()
    attribute = (ctypes.c_float * 4)()
    for index in range(4):
        gl.GetVertexAttribfv(index, 0x8626, attribute)
        found[f"vertex attribute {index}"] = tuple(attribute)
    found |= _units()
    found |= _framebuffers()
    clear_errors()
    return found


def _units() -> State:
    found: State = {}
    active = ctypes.c_int()
    gl.GetIntegerv(VALUES["ACTIVE_TEXTURE"], ctypes.byref(active))
    for unit in range(UNITS):
        gl.ActiveTexture(0x84C0 + unit)
        for name, query in TEXTURE_BINDINGS.items():
            found[f"unit {unit} {name}"] = _numbers(name, query)
        for parameter in TEXTURE_PARAMETERS:
            value = ctypes.c_int(-77)
            gl.GetTexParameteriv(0x0DE1, parameter, ctypes.byref(value))
            found[f"unit {unit} texture parameter {parameter:#x}"] = value.value, gl.GetError()
    gl.ActiveTexture(active.value)
    return found


def _framebuffers() -> State:
    found: State = {}
    for name, target in (("draw", 0x8CA9), ("read", 0x8CA8)):
        for attachment in (0x8CE0, 0x8CE1, 0x8D00, 0x8D20):
            for parameter in (0x8CD0, 0x8CD1):
                value = ctypes.c_int(-77)
                gl.GetFramebufferAttachmentParameteriv(target, attachment, parameter, ctypes.byref(value))
                found[f"{name} framebuffer {attachment:#x} {parameter:#x}"] = value.value, gl.GetError()
    return found


def differences(before: State, after: State) -> dict[str, tuple[Value, Value]]:
    assert before.keys() == after.keys()
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def objects(most: int = 200) -> dict[str, set[int]]:
    """The names that are objects, of each kind: what a leak adds to."""
    found = {kind: {name for name in range(1, most) if getattr(gl, f"Is{kind}")(name) & 0xFF} for kind in OBJECTS}
    clear_errors()
    return found


# ---- unusual values


@dataclass
class Unusual:
    """Sets all it can to what a careless reader would not survive, and remembers what to compare afterwards."""

    framebuffer: int = 0
    feeding: bool = False
    _kept: list[Any] = field(default_factory=list)

    def set(self, *, feedback: bool = True, discard: bool = True) -> Unusual:
        desktop, number, known = is_desktop(), version(), extensions()
        clear_errors()
        self._textures(desktop)
        self._objects()
        self._program(feedback)
        self._pixels(desktop, number, known)
        self._fragments(desktop, number, known, discard)
        self._indexed(desktop, number, known)
        clear_errors()
        return self

    def pixels(self) -> bytes:
        """What the caller's own framebuffer holds."""
        before = state()
        gl.BindBuffer(0x88EB, 0)
        for name in (0x0D02, 0x0D03, 0x0D04):
            gl.PixelStorei(name, 0)
        memory = (ctypes.c_ubyte * (16 * 16 * 4))()
        gl.BindFramebuffer(0x8CA8, self.framebuffer)
        gl.ReadPixels(0, 0, 16, 16, 0x1908, 0x1401, memory)
        clear_errors()
        gl.BindFramebuffer(0x8CA8, _whole(before, "READ_FRAMEBUFFER_BINDING"))
        gl.BindBuffer(0x88EB, _whole(before, "PIXEL_PACK_BUFFER_BINDING"))
        for name, query in (("PACK_ROW_LENGTH", 0x0D02), ("PACK_SKIP_ROWS", 0x0D03), ("PACK_SKIP_PIXELS", 0x0D04)):
            gl.PixelStorei(query, _whole(before, name))
        return bytes(memory)

    def release(self) -> None:
        """Back to where a context can be used for something else."""
        if self.feeding:
            gl.EndTransformFeedback()
            self.feeding = False
        gl.Disable(ENABLES["RASTERIZER_DISCARD"])
        clear_errors()

    def _textures(self, desktop: bool) -> None:
        for unit in range(UNITS):
            gl.ActiveTexture(0x84C0 + unit)
            for target in (0x0DE1, 0x806F, 0x8C1A, 0x8513):
                gl.BindTexture(target, one(gl.GenTextures))
            gl.TexParameteri(0x0DE1, 0x2801, 0x2600 + unit % 2)
            gl.TexParameteri(0x0DE1, 0x2802, 0x8370)
            sampler = one(gl.GenSamplers)
            gl.SamplerParameteri(sampler, 0x2801, 0x2703)  # a filter that wants mipmaps, for textures without
            gl.SamplerParameteri(sampler, 0x2802, 0x8370)
            gl.BindSampler(unit, sampler)
        gl.ActiveTexture(0x84C0 + 5)

    def _objects(self) -> None:
        texture = one(gl.GenTextures)
        before = ctypes.c_int()
        gl.GetIntegerv(TEXTURE_BINDINGS["2D"], ctypes.byref(before))
        gl.BindTexture(0x0DE1, texture)
        gl.TexStorage2D(0x0DE1, 1, 0x8058, 16, 16)
        gl.BindTexture(0x0DE1, before.value)
        self.framebuffer, other = one(gl.GenFramebuffers), one(gl.GenFramebuffers)
        gl.BindFramebuffer(0x8D40, self.framebuffer)
        gl.FramebufferTexture2D(0x8D40, 0x8CE0, 0x0DE1, texture, 0)
        gl.ClearColor(*floats(0.25, 0.5, 0.75, 1.0))
        gl.Clear(0x4000)
        gl.BindFramebuffer(0x8CA8, other)  # one that is not complete, for reading
        gl.BindRenderbuffer(0x8D41, one(gl.GenRenderbuffers))
        for target in (0x8892, 0x88EB, 0x88EC, 0x8F36, 0x8F37, 0x8A11):
            gl.BindBuffer(target, one(gl.GenBuffers))
            gl.BufferData(target, ctypes.c_ssize_t(1 << 16), None, 0x88E4)
        gl.BindBufferBase(0x8A11, 1, one(gl.GenBuffers))
        gl.BindVertexArray(one(gl.GenVertexArrays))
        gl.BindBuffer(0x8893, one(gl.GenBuffers))
        gl.VertexAttrib4f(1, *floats(1, 2, 3, 4))

    def _program(self, feedback: bool) -> None:
        head = b"#version 330 core\n" if is_desktop() else b"#version 300 es\nprecision highp float;\n"
        program = gl.CreateProgram()
        for kind, text in (
            (0x8B31, b"out vec4 seen;\nvoid main() { seen = vec4(1.0); gl_Position = seen; }\n"),
            (0x8B30, b"in vec4 seen;\nout vec4 colour;\nvoid main() { colour = seen; }\n"),
        ):
            shader = gl.CreateShader(kind)
            source = ctypes.c_char_p(head + text)
            gl.ShaderSource(shader, 1, ctypes.byref(source), None)
            gl.CompileShader(shader)
            gl.AttachShader(program, shader)
        varying = ctypes.c_char_p(b"seen")
        gl.TransformFeedbackVaryings(program, 1, ctypes.byref(varying), 0x8C8C)
        gl.LinkProgram(program)
        linked = ctypes.c_int()
        gl.GetProgramiv(program, 0x8B82, ctypes.byref(linked))
        assert linked.value
        gl.UseProgram(program)
        if not feedback:
            return
        gl.BindTransformFeedback(0x8E22, one(gl.GenTransformFeedbacks))
        buffer = one(gl.GenBuffers)
        gl.BindBufferBase(0x8C8E, 0, buffer)
        gl.BufferData(0x8C8E, ctypes.c_ssize_t(4096), None, 0x88E4)
        gl.BeginTransformFeedback(0x0000)
        assert gl.GetError() == 0
        self.feeding = True

    def _pixels(self, desktop: bool, number: int, known: set[str]) -> None:
        stores = [(0x0D02, 33), (0x0D03, 3), (0x0D04, 5), (0x0D05, 2), (0x0CF2, 35), (0x0CF3, 2), (0x0CF4, 7), (0x0CF5, 8)]
        if desktop:
            stores += [(0x0D00, 1), (0x0D01, 1), (0x0CF0, 1), (0x0CF1, 1), (0x806B, 1), (0x806C, 9)]
            gl.ClampColor(0x891C, 1)
        if "GL_MESA_pack_invert" in known:
            stores.append((0x8758, 1))
        if "GL_ANGLE_pack_reverse_row_order" in known:
            stores.append((0x93A4, 1))
        for name, value in stores:
            gl.PixelStorei(name, value)
        if desktop and compatible(number):
            gl.PixelTransferf(0x0D14, *floats(0.5))
            gl.PixelTransferf(0x0D19, *floats(0.25))
            gl.PixelTransferi(0x0D10, 1)

    def _fragments(self, desktop: bool, number: int, known: set[str], discard: bool) -> None:
        gl.Viewport(3, 4, 5, 6)
        gl.Scissor(1, 1, 2, 2)
        gl.ColorMask(0, 1, 0, 0)
        gl.DepthMask(0)
        gl.StencilMaskSeparate(0x0404, 0x55)
        gl.StencilFuncSeparate(0x0405, 0x0200, 3, 0x7F)
        gl.DepthFunc(0x0200)
        gl.CullFace(0x0408)
        gl.FrontFace(0x0900)
        gl.BlendFuncSeparate(0x0000, 0x0001, 0x0306, 0x0304)
        gl.BlendEquationSeparate(0x800B, 0x8007)
        gl.BlendColor(*floats(0.1, 0.2, 0.3, 0.4))
        gl.ClearColor(*floats(0.9, 0.8, 0.7, 0.6))
        gl.PolygonOffset(*floats(2.0, 3.0))
        gl.SampleCoverage(*floats(0.0), 0)
        gl.LineWidth(*floats(1.0))
        gl.Hint(0x8192, 0x1101)
        on = ["BLEND", "CULL_FACE", "DEPTH_TEST", "SCISSOR_TEST", "STENCIL_TEST", "SAMPLE_ALPHA_TO_COVERAGE", "SAMPLE_COVERAGE"]
        on += ["POLYGON_OFFSET_FILL", "PRIMITIVE_RESTART_FIXED_INDEX"]
        if discard:
            on.append("RASTERIZER_DISCARD")
        if desktop:
            on += ["COLOR_LOGIC_OP", "FRAMEBUFFER_SRGB", "POLYGON_SMOOTH", "SAMPLE_MASK", "DEPTH_CLAMP", "PROGRAM_POINT_SIZE"]
            gl.LogicOp(0x1500)
            gl.PolygonMode(0x0408, 0x1B00)
            gl.SampleMaski(0, 0)
        if desktop or "GL_EXT_clip_cull_distance" in known:
            on += ["CLIP_DISTANCE0", "CLIP_DISTANCE5"]
        if desktop and compatible(number):
            on += ["ALPHA_TEST", "POLYGON_STIPPLE"]
            gl.AlphaFunc(0x0200, *floats(0.5))
            gl.PolygonMode(0x0404, 0x1B00)
            gl.PolygonMode(0x0405, 0x1B01)
        for name in on:
            gl.Enable(ENABLES[name])
        gl.Disable(ENABLES["DITHER"])
        if desktop and number >= 45:
            gl.ClipControl(0x8CA2, 0x935F)
        elif "GL_EXT_clip_control" in known:
            gl.ClipControlEXT(0x8CA2, 0x935F)

    def _indexed(self, desktop: bool, number: int, known: set[str]) -> None:
        if desktop or number >= 32:
            for index in range(8):
                (gl.Enablei if index % 2 else gl.Disablei)(ENABLES["BLEND"], index)
                gl.ColorMaski(index, index % 2, 0, 1, 0)
        end = "" if desktop and number >= 41 else "OES" if "GL_OES_viewport_array" in known else None
        if end is not None:
            enable, disable = (getattr(gl, f"{word}{'' if desktop else end}") for word in ("Enablei", "Disablei"))
            for index in range(16):
                (disable if index % 3 else enable)(ENABLES["SCISSOR_TEST"], index)
                getattr(gl, f"ViewportIndexedf{end}")(index, *floats(index + 0.5, 1.25, 7.75, 9.5))


def compatible(number: int) -> bool:
    """Whether a desktop context of that version has what GL 3.1 took away."""
    profile = ctypes.c_int()
    gl.GetIntegerv(0x9126, ctypes.byref(profile))
    clear_errors()
    return number < 32 or bool(profile.value & 2)


def _whole(found: State, name: str) -> int:
    value = found[name]
    assert isinstance(value, tuple)
    return int(value[0][0])
