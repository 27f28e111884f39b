// HDR to sRGB: PQ or HLG (BT.2100) to light, BT.2390's EETF on the brightest component, BT.2020 to BT.709, sRGB.
// PEAK is the content's brightest, WHITE what becomes sRGB's white, both in cd/m2 (BT.2408: 203).
const float M1 = 2610.0 / 16384.0, M2 = 2523.0 / 32.0;
const float C1 = 3424.0 / 4096.0, C2 = 2413.0 / 128.0, C3 = 2392.0 / 128.0;

float pq(float light) {
    float y = pow(max(light, 0.0) / 10000.0, M1);
    return pow((C1 + C2 * y) / (1.0 + C3 * y), M2);
}

float pq_light(float code) {
    float e = pow(max(code, 0.0), 1.0 / M2);
    return 10000.0 * pow(max(e - C1, 0.0) / (C2 - C3 * e), 1.0 / M1);
}

float hlg_scene(float code) {
    return code <= 0.5 ? code * code / 3.0 : (exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12.0;
}

vec3 light_of(vec3 code) {
#ifdef TONE_PQ
    return vec3(pq_light(code.r), pq_light(code.g), pq_light(code.b));
#else
    vec3 scene = vec3(hlg_scene(code.r), hlg_scene(code.g), hlg_scene(code.b));
    float y = dot(scene, vec3(0.2627, 0.6780, 0.0593));
    return PEAK * pow(max(y, 1e-6), 0.2) * scene;  // the OOTF of a 1000 cd/m2 display: gamma 1.2
#endif
}

// BT.2390-10, 5.4.1, with black at zero on both sides.
float eetf(float light) {
    float top = pq(PEAK);
    float most = pq(WHITE) / top;
    float knee = 1.5 * most - 0.5;
    float e = min(pq(light) / top, 1.0);
    if (e >= knee) {
        float t = (e - knee) / (1.0 - knee);
        float t2 = t * t, t3 = t2 * t;
        e = (2.0 * t3 - 3.0 * t2 + 1.0) * knee + (t3 - 2.0 * t2 + t) * (1.0 - knee) + (3.0 * t2 - 2.0 * t3) * most;
    }
    return pq_light(e * top);
}

float srgb(float x) {
    return x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1.0 / 2.4) - 0.055;
}

const mat3 TO_709 = mat3(
    1.660491, -0.124550, -0.018151,
    -0.587641, 1.132900, -0.100579,
    -0.072850, -0.008349, 1.118730);

vec3 tone(vec3 code) {
    vec3 light = light_of(clamp(code, 0.0, 1.0));
    float peak = max(max(light.r, light.g), light.b);
    light *= peak > 0.0 ? eetf(peak) / peak : 1.0;
    vec3 rgb = clamp(TO_709 * light / WHITE, 0.0, 1.0);
    return vec3(srgb(rgb.r), srgb(rgb.g), srgb(rgb.b));
}
