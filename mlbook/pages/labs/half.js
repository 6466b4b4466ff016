/** Numbers of a view of little-endian float16, as a Float64Array. Weights travel in half the bytes of float32. */
export function unpackHalf(view) {
  const bytes = new DataView(view.buffer, view.byteOffset, view.byteLength);
  return Float64Array.from({ length: bytes.byteLength >> 1 }, (_, i) => {
    const half = bytes.getUint16(2 * i, true), exponent = (half >> 10) & 31, fraction = half & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
    return half >> 15 ? -size : size;
  });
}
