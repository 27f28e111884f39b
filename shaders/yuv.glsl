// Y'CbCr to R'G'B': chroma brought to the luma's place by its siting, then one matrix. Code values all the way.
//   SUB                ivec2: image pixels per chroma sample
//   COSITED            bvec2: whether the first chroma sample lies on the first pixel (else between the pixels it covers)
//   luma(ivec2), chroma(ivec2)   from the format's table entry

uniform mat3 matrix;
uniform vec3 offset;
uniform ivec2 chroma_first;  // the places of the visible rectangle's first and last chroma sample: beyond lies padding
uniform ivec2 chroma_last;

vec2 chroma_at(ivec2 pixel) {
    // The pixel's centre on the chroma grid is part / whole; integers, so that nothing is lost.
    ivec2 whole = 2 * SUB;
    ivec2 part = 2 * pixel + (ivec2(1) - SUB) * ivec2(not(COSITED));
    ivec2 first = (part + whole) / whole - 1;
    vec2 share = vec2(part - first * whole) / vec2(whole);
    ivec2 a = clamp(first, chroma_first, chroma_last);
    ivec2 b = clamp(first + 1, chroma_first, chroma_last);
    vec2 top = SUB.x == 1 ? chroma(ivec2(a.x, a.y)) : mix(chroma(ivec2(a.x, a.y)), chroma(ivec2(b.x, a.y)), share.x);
    if (SUB.y == 1)
        return top;
    vec2 bottom = SUB.x == 1 ? chroma(ivec2(a.x, b.y)) : mix(chroma(ivec2(a.x, b.y)), chroma(ivec2(b.x, b.y)), share.x);
    return mix(top, bottom, share.y);
}

vec4 colour(ivec2 pixel) {
    return vec4(matrix * (vec3(luma(pixel), chroma_at(pixel)) - offset), alpha(pixel));
}
