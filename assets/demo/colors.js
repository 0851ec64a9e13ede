// Colours that stay: the output gets the low frequencies of the photo, as kd_utils/imaging/colors.py does it.

const CELL = 16; // pixels of the photo a side of a cell whose mean colour is kept

/**
 * Take off, in place, how far the output's mean colours have drifted from the photo's. The means are over cells, their
 * difference is smoothed (Gaussian, one cell) and interpolated linearly.
 *
 * @param {Uint8ClampedArray} out     RGBA, width * scale across
 * @param {Uint8ClampedArray} pixels  RGBA, the photo
 */
export function matchLowFrequencies(out, pixels, width, height, scale) {
  const xs = edges(width);
  const ys = edges(height);
  const columns = xs.length - 1;
  const rows = ys.length - 1;

  const times = (all) => all.map((edge) => edge * scale);
  const drift = cellMeans(out, width * scale, times(xs), times(ys));
  const wanted = cellMeans(pixels, width, xs, ys);
  for (let i = 0; i < drift.length; i++) drift[i] -= wanted[i];
  const smooth = blurRows(blurRows(drift, rows, columns, 3, columns * 3), columns, rows, columns * 3, 3);

  const across = Array.from({ length: width * scale }, (_, x) => between(x, width * scale, columns));
  for (let y = 0, at = 0; y < height * scale; y++) {
    const down = between(y, height * scale, rows);
    for (const { low, high, part } of across) {
      const a = (down.low * columns + low) * 3;
      const b = (down.low * columns + high) * 3;
      const c = (down.high * columns + low) * 3;
      const d = (down.high * columns + high) * 3;
      for (let channel = 0; channel < 3; channel++, at++) {
        const upper = smooth[a + channel] * (1 - part) + smooth[b + channel] * part;
        const lower = smooth[c + channel] * (1 - part) + smooth[d + channel] * part;
        out[at] -= upper * (1 - down.part) + lower * down.part;
      }
      at++; // alpha
    }
  }
}

/** The edges of the cells along a side, of about CELL pixels each. */
function edges(length) {
  const cells = Math.max(1, roundHalfEven(length / CELL));
  return Array.from({ length: cells + 1 }, (_, i) => roundHalfEven((i * length) / cells));
}

function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

/** The mean colour of each cell, (rows, columns, 3). */
function cellMeans(pixels, width, xs, ys) {
  const columns = xs.length - 1;
  const means = new Float64Array((ys.length - 1) * columns * 3);
  for (let row = 0; row < ys.length - 1; row++) {
    for (let column = 0; column < columns; column++) {
      const sums = [0, 0, 0];
      for (let y = ys[row]; y < ys[row + 1]; y++) {
        let at = (y * width + xs[column]) * 4;
        const end = (y * width + xs[column + 1]) * 4;
        for (; at < end; at += 4) {
          sums[0] += pixels[at];
          sums[1] += pixels[at + 1];
          sums[2] += pixels[at + 2];
        }
      }
      const area = (xs[column + 1] - xs[column]) * (ys[row + 1] - ys[row]);
      for (let channel = 0; channel < 3; channel++) {
        means[(row * columns + column) * 3 + channel] = sums[channel] / area;
      }
    }
  }
  return means;
}

/** A Gaussian of sigma 1 along one axis: `count` lines of `length` cells, `step` values apart; the ends are repeated. */
function blurRows(values, count, length, step, lineStep) {
  const taps = Array.from({ length: 9 }, (_, i) => Math.exp(-((i - 4) ** 2) / 2));
  const sum = taps.reduce((a, b) => a + b);
  const out = new Float64Array(values.length);
  for (let line = 0; line < count; line++) {
    for (let i = 0; i < length; i++) {
      for (let channel = 0; channel < 3; channel++) {
        let value = 0;
        for (let tap = 0; tap < 9; tap++) {
          const at = Math.min(Math.max(i + tap - 4, 0), length - 1);
          value += (taps[tap] / sum) * values[line * lineStep + at * step + channel];
        }
        out[line * lineStep + i * step + channel] = value;
      }
    }
  }
  return out;
}

/** Between which two of `cells` the centre of pixel `i` of `length` lies, and how far. */
function between(i, length, cells) {
  const at = Math.min(Math.max(((i + 0.5) * cells) / length - 0.5, 0), cells - 1);
  const low = Math.floor(at);
  return { low, high: Math.min(low + 1, cells - 1), part: at - low };
}
