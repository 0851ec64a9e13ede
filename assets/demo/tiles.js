// Tiles without seams: a window is computed with the student's reach around its core, and only the core is kept.

/**
 * The windows along one side of a photo.
 *
 * All have the same length where the photo is long enough, so that the runtime prepares for one shape only. A window
 * begins at a multiple of `multiple`, because a student of scale 1 or 2 works on a coarser grid.
 *
 * @param {number} length   pixels of the photo's side
 * @param {number} size     pixels of a window, more than 2 * reach
 * @param {number} reach    pixels beyond a core that can change it
 * @param {number} multiple
 * @returns {{start: number, end: number, from: number, to: number}[]} the window, and its core within the photo
 */
export function windows(length, size, reach, multiple = 1) {
  const up = (value) => Math.ceil(value / multiple) * multiple;
  size = up(size);
  reach = up(reach);
  if (length <= size) return [{ start: 0, end: length, from: 0, to: length }];

  const last = Math.ceil((length - size) / multiple) * multiple;
  const found = [];
  let from = 0;
  while (from < length) {
    const start = Math.min(Math.max(0, from - reach), last);
    const isLast = start === last;
    const end = isLast ? length : start + size;
    const to = isLast ? length : end - reach;
    found.push({ start, end, from, to });
    from = to;
  }
  return found;
}

/** The part of RGBA pixels (width across) in a window, as the student takes it: float32 (3, h, w) in [0, 1]. */
export function cutOut(pixels, width, across, down) {
  const w = across.end - across.start;
  const h = down.end - down.start;
  const input = new Float32Array(3 * h * w);
  for (let y = 0; y < h; y++) {
    let at = ((down.start + y) * width + across.start) * 4;
    for (let x = 0; x < w; x++, at += 4) {
      const i = y * w + x;
      input[i] = pixels[at] / 255;
      input[i + h * w] = pixels[at + 1] / 255;
      input[i + 2 * h * w] = pixels[at + 2] / 255;
    }
  }
  return input;
}

/** The core of a window's output, float32 (3, h * scale, w * scale), as RGBA pixels, rounded to whole levels. */
export function keepCore(output, scale, across, down) {
  const w = (across.end - across.start) * scale;
  const plane = w * (down.end - down.start) * scale;
  const left = (across.from - across.start) * scale;
  const top = (down.from - down.start) * scale;
  const width = (across.to - across.from) * scale;
  const height = (down.to - down.from) * scale;

  const core = new Uint8ClampedArray(width * height * 4); // it rounds, and cuts at 0 and 255
  for (let y = 0, to = 0; y < height; y++) {
    let i = (top + y) * w + left;
    for (let x = 0; x < width; x++, i++, to += 4) {
      core[to] = output[i] * 255;
      core[to + 1] = output[i + plane] * 255;
      core[to + 2] = output[i + 2 * plane] * 255;
      core[to + 3] = 255;
    }
  }
  return { core, x: across.from * scale, y: down.from * scale, width, height };
}

/** Put a core where it belongs in the whole output, RGBA, `outWidth` across. */
export function paste(out, outWidth, { core, x, y, width, height }) {
  for (let row = 0; row < height; row++) {
    const line = core.subarray(row * width * 4, (row + 1) * width * 4);
    out.set(line, ((y + row) * outWidth + x) * 4);
  }
}
