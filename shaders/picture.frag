// The last step of every program: which pixel of the buffer belongs here, its colour, and how it is stored.
// Before it stands one of sampled.glsl and planes.glsl, which gives `vec4 colour(ivec2 pixel)`.

// pixel = origin + across * x + down * y: rectangle, y_invert and the eight transforms in one.
uniform ivec2 origin;
uniform ivec2 across;
uniform ivec2 down;

out vec4 target;

void main() {
    ivec2 here = ivec2(gl_FragCoord.xy);
    vec4 c = colour(origin + across * here.x + down * here.y);
#ifdef TONE
    c.rgb = tone(c.rgb);
#endif
    target = STORE(c);
}
