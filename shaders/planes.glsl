// Planes imported as plain bytes and decoded here. The format's table entry gives, before this:
//   PLANES             how many textures there are
//   uint field functions and component functions (gl/program.py writes them from the table)
// A texel of a plane is 1, 2, 4 or 8 bytes, as R8, RG8, RGBA8 or RGBA16; rounding gives the bytes back exactly.

uniform SAMPLER plane0;
#if PLANES > 1
uniform SAMPLER plane1;
#endif
#if PLANES > 2
uniform SAMPLER plane2;
#endif
#if PLANES > 3
uniform SAMPLER plane3;
#endif

uint bytes1(vec4 t) {
    return uint(t.r * 255.0 + 0.5);
}

uint bytes2(vec4 t) {
    uvec2 b = uvec2(t.rg * 255.0 + 0.5);
    return b.x | b.y << 8;
}

uint bytes4(vec4 t) {
    uvec4 b = uvec4(t * 255.0 + 0.5);
    return b.x | b.y << 8 | b.z << 16 | b.w << 24;
}

uvec2 bytes8(vec4 t) {
    uvec4 b = uvec4(t * 65535.0 + 0.5);
    return uvec2(b.x | b.y << 16, b.z | b.w << 16);
}
