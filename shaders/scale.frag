// A second pass: each pixel of the target is the mean of the area of the picture that it covers. Enlarging, it is the
// weighted mean of the up to four pixels that its area touches.
uniform sampler2D picture;
uniform ivec2 size;      // of the picture, in pixels
uniform vec2 ratio;      // picture pixels per target pixel

out vec4 target;

void main() {
    vec2 low = floor(gl_FragCoord.xy) * ratio;
    vec2 high = min(low + ratio, vec2(size));
    ivec2 first = ivec2(low);
    ivec2 last = min(ivec2(ceil(high)), size) - 1;
    vec4 sum = vec4(0.0);
    float total = 0.0;
    for (int y = first.y; y <= last.y; y++) {
        float tall = min(high.y, float(y + 1)) - max(low.y, float(y));
        for (int x = first.x; x <= last.x; x++) {
            float share = tall * (min(high.x, float(x + 1)) - max(low.x, float(x)));
            vec4 t = texelFetch(picture, ivec2(x, y), 0);
            // Transparent pixels have no say in the colour.
            sum += vec4(t.rgb * t.a, t.a) * share;
            total += share;
        }
    }
    float alpha = sum.a / total;
    vec4 c = vec4(alpha > 0.0 ? sum.rgb / sum.a : vec3(0.0), alpha);
    target = STORE(c);
}
