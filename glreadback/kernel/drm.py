"""The DRM and KMS calls we need, as typed functions: drm.h and drm_mode.h of the kernel's uapi.

Every function takes the descriptor of an open /dev/dri node, which stays the caller's, and raises OSError as the kernel
says. A "handle" is a number that means a buffer to that one open file; it is closed with gem_close (or goes with the
file), once, however often the kernel has returned it. A framebuffer (fb) id is visible to every user of the card and
is recycled: read it again for each frame.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ioctl import io, ioctl, iow, iowr

u8, u16, u32, u64, s32 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32

# get_cap
CAP_DUMB_BUFFER, CAP_PRIME, CAP_CURSOR_WIDTH, CAP_CURSOR_HEIGHT, CAP_ADDFB2_MODIFIERS = 0x1, 0x5, 0x8, 0x9, 0x10
# set_client_cap
CLIENT_CAP_UNIVERSAL_PLANES, CLIENT_CAP_ATOMIC = 2, 3
# From Linux 6.6, drivers of virtual machines (virtio_gpu, vmwgfx, qxl) hide their cursor planes from who has asked for
# ATOMIC and not for this.
CLIENT_CAP_WRITEBACK_CONNECTORS, CLIENT_CAP_CURSOR_PLANE_HOTSPOT = 5, 6
# object types of object_properties
OBJECT_CRTC, OBJECT_CONNECTOR, OBJECT_PLANE = 0xCCCCCCCC, 0xC0C0C0C0, 0xEEEEEEEE
# the values of a plane's property "type"
PLANE_OVERLAY, PLANE_PRIMARY, PLANE_CURSOR = 0, 1, 2
# Connector.connection
CONNECTED, DISCONNECTED, UNKNOWN_CONNECTION = 1, 2, 3

_CLOEXEC, _RDWR = 0o2000000, 0o2  # DRM_CLOEXEC, DRM_RDWR
_FB_MODIFIERS = 1 << 1
_MODE_PREFERRED = 1 << 3
_CURSOR_BO, _CURSOR_MOVE = 1, 2
_ATOMIC_ALLOW_MODESET = 0x400
_PROPERTY_RANGE, _PROPERTY_ENUM, _PROPERTY_BLOB, _PROPERTY_BITMASK = 1 << 1, 1 << 3, 1 << 4, 1 << 5

# DRM_MODE_CONNECTOR_*, in order, under the names that the kernel uses in sysfs.
CONNECTOR_NAMES = (
    "Unknown", "VGA", "DVI-I", "DVI-D", "DVI-A", "Composite", "SVIDEO", "LVDS", "Component", "DIN", "DP", "HDMI-A",
    "HDMI-B", "TV", "eDP", "Virtual", "DSI", "DPI", "Writeback", "SPI", "USB",
)  # fmt: skip


# ---- The kernel's structures, under their own names less the "drm_" ----


class _Version(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int),
        ("name_len", ctypes.c_size_t), ("name", ctypes.c_void_p),
        ("date_len", ctypes.c_size_t), ("date", ctypes.c_void_p),
        ("desc_len", ctypes.c_size_t), ("desc", ctypes.c_void_p),
    )  # fmt: skip


class _PrimeHandle(ctypes.Structure):
    _fields_ = (("handle", u32), ("flags", u32), ("fd", s32))


class _ModeInfo(ctypes.Structure):
    _fields_ = (
        ("clock", u32),
        *((name, u16) for name in ("hdisplay", "hsync_start", "hsync_end", "htotal", "hskew")),
        *((name, u16) for name in ("vdisplay", "vsync_start", "vsync_end", "vtotal", "vscan")),
        ("vrefresh", u32), ("flags", u32), ("type", u32), ("name", ctypes.c_char * 32),
    )  # fmt: skip


class _CardRes(ctypes.Structure):
    _fields_ = (
        *((f"{name}_id_ptr", u64) for name in ("fb", "crtc", "connector", "encoder")),
        *((f"count_{name}s", u32) for name in ("fb", "crtc", "connector", "encoder")),
        ("min_width", u32), ("max_width", u32), ("min_height", u32), ("max_height", u32),
    )  # fmt: skip


class _Crtc(ctypes.Structure):
    _fields_ = (
        ("set_connectors_ptr", u64), ("count_connectors", u32), ("crtc_id", u32), ("fb_id", u32),
        ("x", u32), ("y", u32), ("gamma_size", u32), ("mode_valid", u32), ("mode", _ModeInfo),
    )  # fmt: skip


class _GetEncoder(ctypes.Structure):
    _fields_ = tuple((name, u32) for name in ("encoder_id", "encoder_type", "crtc_id", "possible_crtcs", "possible_clones"))


class _GetConnector(ctypes.Structure):
    _fields_ = (
        ("encoders_ptr", u64), ("modes_ptr", u64), ("props_ptr", u64), ("prop_values_ptr", u64),
        ("count_modes", u32), ("count_props", u32), ("count_encoders", u32), ("encoder_id", u32),
        ("connector_id", u32), ("connector_type", u32), ("connector_type_id", u32), ("connection", u32),
        ("mm_width", u32), ("mm_height", u32), ("subpixel", u32), ("pad", u32),
    )  # fmt: skip


class _GetProperty(ctypes.Structure):
    _fields_ = (
        ("values_ptr", u64), ("enum_blob_ptr", u64), ("prop_id", u32), ("flags", u32),
        ("name", ctypes.c_char * 32), ("count_values", u32), ("count_enum_blobs", u32),
    )  # fmt: skip


class _PropertyEnum(ctypes.Structure):
    _fields_ = (("value", u64), ("name", ctypes.c_char * 32))


class _GetBlob(ctypes.Structure):
    _fields_ = (("blob_id", u32), ("length", u32), ("data", u64))


class _GetPlaneRes(ctypes.Structure):
    _fields_ = (("plane_id_ptr", u64), ("count_planes", u32))


class _GetPlane(ctypes.Structure):
    _fields_ = (
        ("plane_id", u32), ("crtc_id", u32), ("fb_id", u32), ("possible_crtcs", u32), ("gamma_size", u32),
        ("count_format_types", u32), ("format_type_ptr", u64),
    )  # fmt: skip


class _SetPlane(ctypes.Structure):
    _fields_ = (
        ("plane_id", u32), ("crtc_id", u32), ("fb_id", u32), ("flags", u32),
        ("crtc_x", s32), ("crtc_y", s32), ("crtc_w", u32), ("crtc_h", u32),
        ("src_x", u32), ("src_y", u32), ("src_h", u32), ("src_w", u32),  # the height does come first
    )  # fmt: skip


class _FbCmd2(ctypes.Structure):
    _fields_ = (
        ("fb_id", u32), ("width", u32), ("height", u32), ("pixel_format", u32), ("flags", u32),
        ("handles", u32 * 4), ("pitches", u32 * 4), ("offsets", u32 * 4), ("modifier", u64 * 4),
    )  # fmt: skip


class _CreateDumb(ctypes.Structure):
    _fields_ = (
        ("height", u32), ("width", u32), ("bpp", u32), ("flags", u32),
        ("handle", u32), ("pitch", u32), ("size", u64),
    )  # fmt: skip


class _ObjGetProperties(ctypes.Structure):
    _fields_ = (("props_ptr", u64), ("prop_values_ptr", u64), ("count_props", u32), ("obj_id", u32), ("obj_type", u32))


class _Atomic(ctypes.Structure):
    _fields_ = (
        ("flags", u32), ("count_objs", u32), ("objs_ptr", u64), ("count_props_ptr", u64), ("props_ptr", u64),
        ("prop_values_ptr", u64), ("reserved", u64), ("user_data", u64),
    )  # fmt: skip


class _CreateBlob(ctypes.Structure):
    _fields_ = (("data", u64), ("length", u32), ("blob_id", u32))


class _Cursor2(ctypes.Structure):
    _fields_ = (
        ("flags", u32), ("crtc_id", u32), ("x", s32), ("y", s32), ("width", u32), ("height", u32),
        ("handle", u32), ("hot_x", s32), ("hot_y", s32),
    )  # fmt: skip


def _both_ways(number: int, structure: type[ctypes.Structure]) -> int:
    return iowr("d", number, ctypes.sizeof(structure))


_VERSION = _both_ways(0x00, _Version)
_GEM_CLOSE = iow("d", 0x09, 8)
_GET_CAP = iowr("d", 0x0C, 16)
_SET_CLIENT_CAP = iow("d", 0x0D, 16)
_SET_MASTER, _DROP_MASTER = io("d", 0x1E), io("d", 0x1F)
_PRIME_HANDLE_TO_FD, _PRIME_FD_TO_HANDLE = _both_ways(0x2D, _PrimeHandle), _both_ways(0x2E, _PrimeHandle)
_GET_RESOURCES = _both_ways(0xA0, _CardRes)
_GET_CRTC, _SET_CRTC = _both_ways(0xA1, _Crtc), _both_ways(0xA2, _Crtc)
_GET_ENCODER = _both_ways(0xA6, _GetEncoder)
_GET_CONNECTOR = _both_ways(0xA7, _GetConnector)
_GET_PROPERTY = _both_ways(0xAA, _GetProperty)
_GET_BLOB = _both_ways(0xAC, _GetBlob)
_REMOVE_FB = iowr("d", 0xAF, 4)
_CREATE_DUMB = _both_ways(0xB2, _CreateDumb)
_MAP_DUMB = iowr("d", 0xB3, 16)
_DESTROY_DUMB = iowr("d", 0xB4, 4)
_GET_PLANE_RESOURCES = _both_ways(0xB5, _GetPlaneRes)
_GET_PLANE = _both_ways(0xB6, _GetPlane)
_SET_PLANE = _both_ways(0xB7, _SetPlane)
_ADD_FB2, _GET_FB2 = _both_ways(0xB8, _FbCmd2), _both_ways(0xCE, _FbCmd2)
_OBJECT_PROPERTIES = _both_ways(0xB9, _ObjGetProperties)
_CURSOR2 = _both_ways(0xBB, _Cursor2)
_ATOMIC = _both_ways(0xBC, _Atomic)
_CREATE_BLOB, _DESTROY_BLOB = _both_ways(0xBD, _CreateBlob), iowr("d", 0xBE, 4)


def _array(kind: Any, length: int) -> tuple[Any, int]:
    """A ctypes array and its address, 0 for an empty one. Keep the array for as long as the address is used."""
    array = (kind * length)()
    return array, ctypes.addressof(array) if length else 0


# ---- The card ----


def driver_name(fd: int) -> str:
    """The driver's name as the kernel has it: "virtio_gpu", "i915", … (DRM_IOCTL_VERSION)."""
    name, address = _array(ctypes.c_char, 64)
    ioctl(fd, _VERSION, _Version(name_len=64, name=address))
    return bytes(name.value).decode("ascii", "replace")


def get_cap(fd: int, cap: int) -> int:
    """The value of one of the driver's capabilities, CAP_*."""
    argument = bytearray(struct.pack("=QQ", cap, 0))
    ioctl(fd, _GET_CAP, argument)
    return int(struct.unpack("=QQ", argument)[1])


def set_client_cap(fd: int, cap: int, value: int = 1) -> None:
    """Ask for a CLIENT_CAP_*. Without UNIVERSAL_PLANES the kernel lists neither primary nor cursor planes."""
    ioctl(fd, _SET_CLIENT_CAP, bytearray(struct.pack("=QQ", cap, value)))


def set_master(fd: int) -> None:
    """Become DRM master, who may set modes. The first to open a card is master without asking."""
    ioctl(fd, _SET_MASTER, bytearray(0))


def drop_master(fd: int) -> None:
    """Stop being DRM master, so that another (a compositor that starts) can be. EINVAL if one is not."""
    ioctl(fd, _DROP_MASTER, bytearray(0))


# ---- Buffers ----


@dataclass(frozen=True, slots=True)
class Dumb:
    """A buffer for drawing with the CPU. pitch (bytes from row to row) and size (bytes) are the driver's choice."""

    handle: int
    width: int
    height: int
    pitch: int
    size: int


def create_dumb(fd: int, width: int, height: int, bits_per_pixel: int) -> Dumb:
    """A new dumb buffer. End it with destroy_dumb; exported descriptors keep its memory beyond that."""
    made = _CreateDumb(width=width, height=height, bpp=bits_per_pixel)
    ioctl(fd, _CREATE_DUMB, made)
    return Dumb(made.handle, width, height, made.pitch, made.size)


def map_dumb(fd: int, handle: int) -> int:
    """The offset, in bytes, at which the card's own descriptor is to be mapped (mmap) to see the buffer."""
    argument = bytearray(struct.pack("=IIQ", handle, 0, 0))
    ioctl(fd, _MAP_DUMB, argument)
    return int(struct.unpack("=IIQ", argument)[2])


def destroy_dumb(fd: int, handle: int) -> None:
    """Give up a dumb buffer's handle."""
    ioctl(fd, _DESTROY_DUMB, bytearray(struct.pack("=I", handle)))


def gem_close(fd: int, handle: int) -> None:
    """Give up a handle of any kind."""
    ioctl(fd, _GEM_CLOSE, bytearray(struct.pack("=II", handle, 0)))


def export_handle(fd: int, handle: int, *, writable: bool = True) -> int:
    """A new descriptor, the caller's, of the dma-buf behind a handle (PRIME_HANDLE_TO_FD).

    writable is DRM_RDWR. Without it the descriptor is read-only: no shared mapping that can be written, which is what
    Mesa's software drivers ask for (they then read with a stride of their own, so wrongly).
    While a descriptor of an earlier export is open, a new one is of the same open file: writable if that one was.
    """
    prime = _PrimeHandle(handle=handle, flags=_CLOEXEC | (_RDWR if writable else 0), fd=-1)
    ioctl(fd, _PRIME_HANDLE_TO_FD, prime)
    return int(prime.fd)


def import_dmabuf(fd: int, dmabuf: int) -> int:
    """A handle for a dma-buf, which stays the caller's (PRIME_FD_TO_HANDLE).

    The same dma-buf gives the same handle again, to be closed once.
    """
    prime = _PrimeHandle(fd=dmabuf)
    ioctl(fd, _PRIME_FD_TO_HANDLE, prime)
    return int(prime.handle)


# ---- KMS: what there is ----


@dataclass(frozen=True, slots=True)
class Resources:
    """The ids of a card's objects, and the sizes (pixels) it takes for framebuffers."""

    framebuffers: tuple[int, ...]  # only those this open file has added
    crtcs: tuple[int, ...]
    connectors: tuple[int, ...]
    encoders: tuple[int, ...]
    min_size: tuple[int, int]
    max_size: tuple[int, int]


def resources(fd: int) -> Resources:
    """GETRESOURCES. EOPNOTSUPP from a card without displays."""
    kinds = ("fb", "crtc", "connector", "encoder")
    found = _CardRes()
    while True:
        ioctl(fd, _GET_RESOURCES, found)
        counts = [int(getattr(found, f"count_{kind}s")) for kind in kinds]
        arrays = [_array(u32, count) for count in counts]
        for kind, (_, address) in zip(kinds, arrays, strict=True):
            setattr(found, f"{kind}_id_ptr", address)
        ioctl(fd, _GET_RESOURCES, found)
        # A connector may have come or gone between the two calls; then the kernel has not written that list.
        if counts == [getattr(found, f"count_{kind}s") for kind in kinds]:
            fbs, crtcs, connectors, encoders = (tuple(array) for array, _ in arrays)
            smallest, largest = (found.min_width, found.min_height), (found.max_width, found.max_height)
            return Resources(fbs, crtcs, connectors, encoders, smallest, largest)
        found = _CardRes()


@dataclass(frozen=True, slots=True)
class Mode:
    """A display mode: its visible size in pixels, its rate in Hz, and the whole drm_mode_modeinfo for set_crtc."""

    name: str
    width: int
    height: int
    refresh: int
    preferred: bool
    raw: bytes


def _mode(info: _ModeInfo) -> Mode:
    return Mode(
        info.name.decode("ascii", "replace"),
        info.hdisplay,
        info.vdisplay,
        info.vrefresh,
        bool(info.type & _MODE_PREFERRED),
        bytes(info),
    )


@dataclass(frozen=True, slots=True)
class Crtc:
    """A picture's way to the screen. x, y is where in framebuffer its mode's rectangle begins; mode None: it is off."""

    id: int
    framebuffer: int
    x: int
    y: int
    mode: Mode | None


def get_crtc(fd: int, crtc_id: int) -> Crtc:
    """GETCRTC. ENOENT if there is no such CRTC."""
    found = _Crtc(crtc_id=crtc_id)
    ioctl(fd, _GET_CRTC, found)
    return Crtc(crtc_id, found.fb_id, found.x, found.y, _mode(found.mode) if found.mode_valid else None)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What joins a connector to a CRTC. possible_crtcs has a bit for each index into Resources.crtcs."""

    id: int
    kind: int
    crtc: int
    possible_crtcs: int


def get_encoder(fd: int, encoder_id: int) -> Encoder:
    """GETENCODER."""
    found = _GetEncoder(encoder_id=encoder_id)
    ioctl(fd, _GET_ENCODER, found)
    return Encoder(encoder_id, found.encoder_type, found.crtc_id, found.possible_crtcs)


@dataclass(frozen=True, slots=True)
class Connector:
    """A socket for a screen. name is as in sysfs ("HDMI-A-1"); connection is CONNECTED or a neighbour of it above."""

    id: int
    name: str
    connection: int
    encoder: int
    encoders: tuple[int, ...]
    modes: tuple[Mode, ...]
    size_mm: tuple[int, int]


def get_connector(fd: int, connector_id: int) -> Connector:
    """GETCONNECTOR, as the kernel knows it: the screen is not asked anew, which may take long and needs DRM master."""
    while True:
        # Room for one mode is what tells the kernel not to probe; less than it has, and it writes none.
        modes, modes_ptr = _array(_ModeInfo, 1)
        found = _GetConnector(connector_id=connector_id, count_modes=1, modes_ptr=modes_ptr)
        ioctl(fd, _GET_CONNECTOR, found)
        modes, modes_ptr = _array(_ModeInfo, max(1, found.count_modes))
        encoders, encoders_ptr = _array(u32, found.count_encoders)
        counts = (found.count_modes, found.count_encoders)
        found = _GetConnector(
            connector_id=connector_id,
            count_modes=len(modes),
            modes_ptr=modes_ptr,
            count_encoders=len(encoders),
            encoders_ptr=encoders_ptr,
        )
        ioctl(fd, _GET_CONNECTOR, found)
        if counts == (found.count_modes, found.count_encoders):
            break
    kind = found.connector_type
    kind_name = CONNECTOR_NAMES[kind] if kind < len(CONNECTOR_NAMES) else f"Type{kind}"
    return Connector(
        connector_id,
        f"{kind_name}-{found.connector_type_id}",
        found.connection,
        found.encoder_id,
        tuple(encoders),
        tuple(_mode(info) for info in modes[: found.count_modes]),
        (found.mm_width, found.mm_height),
    )


def plane_ids(fd: int) -> tuple[int, ...]:
    """GETPLANERESOURCES: all planes after set_client_cap(CLIENT_CAP_UNIVERSAL_PLANES), else the overlays only."""
    found = _GetPlaneRes()
    ioctl(fd, _GET_PLANE_RESOURCES, found)
    ids, address = _array(u32, found.count_planes)
    # Planes neither come nor go while a card is there.
    ioctl(fd, _GET_PLANE_RESOURCES, _GetPlaneRes(plane_id_ptr=address, count_planes=len(ids)))
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class PlaneState:
    """A plane of a CRTC; crtc and framebuffer are 0 while it is off. formats are the fourccs it can show."""

    id: int
    crtc: int
    framebuffer: int
    possible_crtcs: int
    formats: tuple[int, ...]


def get_plane(fd: int, plane_id: int) -> PlaneState:
    """GETPLANE."""
    found = _GetPlane(plane_id=plane_id)
    ioctl(fd, _GET_PLANE, found)
    formats, address = _array(u32, found.count_format_types)
    found = _GetPlane(plane_id=plane_id, count_format_types=len(formats), format_type_ptr=address)
    ioctl(fd, _GET_PLANE, found)
    return PlaneState(plane_id, found.crtc_id, found.fb_id, found.possible_crtcs, tuple(formats))


# ---- KMS: properties ----


@dataclass(frozen=True, slots=True)
class Property:
    """What a property is. values are its range's ends or the like; names gives the words of an enum or a bit mask."""

    id: int
    name: str
    values: tuple[int, ...]
    names: dict[int, str]
    is_blob: bool


def get_property(fd: int, property_id: int) -> Property:
    """GETPROPERTY."""
    found = _GetProperty(prop_id=property_id)
    ioctl(fd, _GET_PROPERTY, found)
    named = bool(found.flags & (_PROPERTY_ENUM | _PROPERTY_BITMASK))
    values, values_ptr = _array(u64, found.count_values)
    enums, enums_ptr = _array(_PropertyEnum, found.count_enum_blobs if named else 0)
    found = _GetProperty(
        prop_id=property_id,
        count_values=len(values),
        values_ptr=values_ptr,
        count_enum_blobs=len(enums),
        enum_blob_ptr=enums_ptr,
    )
    ioctl(fd, _GET_PROPERTY, found)
    return Property(
        property_id,
        found.name.decode("ascii", "replace"),
        tuple(values),
        {entry.value: entry.name.decode("ascii", "replace") for entry in enums},
        bool(found.flags & _PROPERTY_BLOB),
    )


def property_values(fd: int, object_id: int, object_type: int) -> dict[int, int]:
    """The current values of an object's properties by the properties' ids (OBJ_GETPROPERTIES); see object_properties."""
    found = _ObjGetProperties(obj_id=object_id, obj_type=object_type)
    ioctl(fd, _OBJECT_PROPERTIES, found)
    ids, ids_ptr = _array(u32, found.count_props)
    values, values_ptr = _array(u64, found.count_props)
    found.props_ptr, found.prop_values_ptr = ids_ptr, values_ptr
    ioctl(fd, _OBJECT_PROPERTIES, found)
    return dict(zip(ids, values, strict=True))


def object_properties(fd: int, object_id: int, object_type: int) -> dict[str, int]:
    """The current values of an object's properties by their names, object_type being an OBJECT_*.

    Rectangles on the framebuffer (SRC_X …) are 16.16 fixed point. Those and CRTC_X … are there only after
    set_client_cap(CLIENT_CAP_ATOMIC).
    """
    values = property_values(fd, object_id, object_type)
    return {get_property(fd, number).name: value for number, value in values.items()}


def get_blob(fd: int, blob_id: int) -> bytes:
    """The content of a blob property's value (GETPROPBLOB)."""
    found = _GetBlob(blob_id=blob_id)
    ioctl(fd, _GET_BLOB, found)
    content, address = _array(u8, found.length)
    ioctl(fd, _GET_BLOB, _GetBlob(blob_id=blob_id, length=len(content), data=address))
    return bytes(content)


def create_blob(fd: int, content: bytes) -> int:
    """A new blob for a property's value (CREATEPROPBLOB), such as a mode's raw bytes for MODE_ID. It goes with the file."""
    data = ctypes.create_string_buffer(content, len(content))
    made = _CreateBlob(data=ctypes.addressof(data), length=len(content))
    ioctl(fd, _CREATE_BLOB, made)
    return int(made.blob_id)


def destroy_blob(fd: int, blob_id: int) -> None:
    """Give up a blob (DESTROYPROPBLOB); what uses it keeps it."""
    ioctl(fd, _DESTROY_BLOB, bytearray(struct.pack("=I", blob_id)))


# ---- KMS: framebuffers and what is shown ----


@dataclass(frozen=True, slots=True)
class Framebuffer:
    """A framebuffer's description: one (handle, offset, pitch) a plane, in bytes; modifier None if it has none set.

    The handles are ours to close, each distinct one once. They are 0 without CAP_SYS_ADMIN or DRM master.
    """

    id: int
    width: int
    height: int
    fourcc: int
    modifier: int | None
    planes: tuple[tuple[int, int, int], ...]


def get_fb2(fd: int, fb_id: int) -> Framebuffer:
    """GETFB2, from Linux 5.7. ENOENT when the framebuffer has gone meanwhile."""
    found = _FbCmd2(fb_id=fb_id)
    ioctl(fd, _GET_FB2, found)
    planes = zip(found.handles, found.offsets, found.pitches, strict=True)
    return Framebuffer(
        fb_id,
        found.width,
        found.height,
        found.pixel_format,
        int(found.modifier[0]) if found.flags & _FB_MODIFIERS else None,
        # Unused planes have no pitch; a handle may be missing for want of rights.
        tuple(plane for plane in planes if plane[2]),
    )


def add_fb2(
    fd: int,
    width: int,
    height: int,
    fourcc: int,
    planes: Sequence[tuple[int, int, int]],
    modifier: int | None = None,
) -> int:
    """ADDFB2: a framebuffer of planes (handle, offset, pitch). Returns its id, to be ended with remove_fb."""
    command = _FbCmd2(width=width, height=height, pixel_format=fourcc)
    for number, plane in enumerate(planes):
        command.handles[number], command.offsets[number], command.pitches[number] = plane
        if modifier is not None:
            command.modifier[number] = modifier
            command.flags = _FB_MODIFIERS
    ioctl(fd, _ADD_FB2, command)
    return int(command.fb_id)


def remove_fb(fd: int, fb_id: int) -> None:
    """RMFB. A plane that still shows it goes off."""
    ioctl(fd, _REMOVE_FB, bytearray(struct.pack("=I", fb_id)))


def set_crtc(fd: int, crtc_id: int, fb_id: int, connectors: Sequence[int], mode: Mode | None, x: int = 0, y: int = 0) -> None:
    """SETCRTC, for the DRM master: show fb_id from x, y on; mode None and no connectors switches off."""
    ids, address = _array(u32, len(connectors))
    ids[:] = connectors
    wanted = _Crtc(set_connectors_ptr=address, count_connectors=len(connectors), crtc_id=crtc_id, fb_id=fb_id, x=x, y=y)
    if mode is not None:
        wanted.mode_valid = 1
        wanted.mode = _ModeInfo.from_buffer_copy(mode.raw)
    ioctl(fd, _SET_CRTC, wanted)


def set_plane(
    fd: int,
    plane_id: int,
    crtc_id: int,
    fb_id: int,
    target: tuple[int, int, int, int],
    source: tuple[float, float, float, float],
) -> None:
    """SETPLANE, for the DRM master: show a framebuffer, or with fb_id 0 nothing.

    target is x, y, width, height on the CRTC, source the same on the framebuffer; both in pixels.
    """
    fixed = [round(value * 65536) for value in source]
    wanted = _SetPlane(plane_id=plane_id, crtc_id=crtc_id, fb_id=fb_id)
    wanted.crtc_x, wanted.crtc_y, wanted.crtc_w, wanted.crtc_h = target
    wanted.src_x, wanted.src_y, wanted.src_w, wanted.src_h = fixed
    ioctl(fd, _SET_PLANE, wanted)


def set_cursor(
    fd: int,
    crtc_id: int,
    handle: int,
    size: tuple[int, int],
    position: tuple[int, int],
    hot_spot: tuple[int, int] = (0, 0),
) -> None:
    """CURSOR2, for the DRM master: show an AR24 buffer as the cursor, handle 0 takes it away."""
    wanted = _Cursor2(flags=_CURSOR_BO | _CURSOR_MOVE, crtc_id=crtc_id, handle=handle)
    wanted.width, wanted.height = size
    wanted.x, wanted.y = position
    wanted.hot_x, wanted.hot_y = hot_spot
    ioctl(fd, _CURSOR2, wanted)


def atomic_commit(fd: int, changes: Mapping[int, Mapping[int, int]]) -> None:
    """ATOMIC, for the DRM master: set properties, {object: {property: value}}, all or none, and wait until it is shown.

    Signed values are given as they are. Modes may be set. Raises OSError: EINVAL where the hardware cannot do it.
    """
    objects, objects_ptr = _array(u32, len(changes))
    counts, counts_ptr = _array(u32, len(changes))
    pairs = [pair for properties in changes.values() for pair in properties.items()]
    numbers, numbers_ptr = _array(u32, len(pairs))
    values, values_ptr = _array(u64, len(pairs))
    objects[:] = list(changes)
    counts[:] = [len(properties) for properties in changes.values()]
    numbers[:] = [number for number, _ in pairs]
    values[:] = [value & 0xFFFFFFFFFFFFFFFF for _, value in pairs]
    command = _Atomic(flags=_ATOMIC_ALLOW_MODESET, count_objs=len(changes))
    command.objs_ptr, command.count_props_ptr = objects_ptr, counts_ptr
    command.props_ptr, command.prop_values_ptr = numbers_ptr, values_ptr
    ioctl(fd, _ATOMIC, command)
