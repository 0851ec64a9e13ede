// What an ONNX file says of itself: onnxruntime-web does not tell, so its protobuf is read here.

/**
 * The metadata of an ONNX file, such as {scale: "4", radius: "16"}.
 *
 * @param {Uint8Array} bytes
 * @throws {Error} for bytes that are no protobuf
 */
export function readMetadata(bytes) {
  const found = {};
  for (const [field, value] of fieldsOf(bytes)) {
    if (field !== 14 || !(value instanceof Uint8Array)) continue; // ModelProto.metadata_props
    const entry = new Map(fieldsOf(value)); // 1: key, 2: value
    found[text(entry.get(1))] = text(entry.get(2));
  }
  return found;
}

/** The fields of one message: its number, and its bytes or its whole number. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= bytes.length) throw new Error("it ends early");
      const byte = bytes[at++];
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw new Error("a number in it does not end");
  };

  while (at < bytes.length) {
    const key = varint();
    const kind = key % 8;
    let value;
    if (kind === 0) value = varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      value = bytes.subarray(at, at + length);
      at += length;
    } else throw new Error("it is no protobuf");
    if (at > bytes.length) throw new Error("it ends early");
    yield [Math.floor(key / 8), value];
  }
}

const text = (bytes) => new TextDecoder().decode(bytes);
