// The whole picture imported as it is: the driver decodes tiles, compression, and (external) its own YUV.
uniform SAMPLER picture;

vec4 colour(ivec2 pixel) {
    return texelFetch(picture, pixel, 0);
}
