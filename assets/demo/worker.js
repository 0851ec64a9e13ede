// The work on one photo, away from the page so that it stays alive: read it, run the student tile by tile, keep colours.
//
// Gets  {photo: Blob, name, model: {name, url} or {name, bytes}, engine}.
// Sends {status}, {photo: {pixels, width, height, scale}}, {tile: {core, x, y, width, height}, done},
//       {result: {pixels, width, height, engine, seconds}} or {error}.
// To cancel, the page ends the worker: that takes effect at once, also within a tile.

import { matchLowFrequencies } from "./colors.js";
import { readMetadata } from "./metadata.js";
import { cutOut, keepCore, paste, windows } from "./tiles.js";

const MAX_SIDE = 16384; // of a canvas, in the browsers there are
const MAX_PIXELS = 100e6;

/** Something that the person can do something about: its message is shown as it is. */
class Complaint extends Error {}

let runtime = null; // {ort, engine}
let loaded = { key: null }; // the session of the last model: {key, session, scale, reach}

self.onmessage = async ({ data }) => {
  try {
    await run(data);
  } catch (error) {
    if (error instanceof Complaint) self.postMessage({ error: error.message });
    else self.postMessage({ error: `It did not work: ${error?.message ?? error}` });
  }
};

async function run({ photo, name, model, engine }) {
  self.postMessage({ status: "Reading the photo" });
  const { pixels, width, height } = await readPhoto(photo, name);

  self.postMessage({ status: `Loading ${model.name}` });
  const { session, scale, reach } = await loadModel(model, engine);
  refuseTooLarge(width * scale, height * scale);
  const copy = pixels.slice(); // the page shows it as "before"
  self.postMessage({ photo: { pixels: copy, width, height, scale } }, [copy.buffer]);

  const started = performance.now();
  const out = await sharpen(session, pixels, width, height, scale, reach);
  matchLowFrequencies(out, pixels, width, height, scale);
  const seconds = (performance.now() - started) / 1000;
  const result = { pixels: out, width: width * scale, height: height * scale, engine: runtime.engine, seconds };
  self.postMessage({ result }, [out.buffer]);
}

/** The photo upright, over white, as RGBA. */
async function readPhoto(photo, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(photo, { imageOrientation: "from-image" });
  } catch {
    throw new Complaint(
      `${name} is no image that this browser can read. JPEG, PNG, WebP, AVIF, GIF and BMP work; HEIC and RAW mostly do not.`,
    );
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Complaint(`${name} is too large for this browser (${width} x ${height} pixels).`);
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { pixels: context.getImageData(0, 0, width, height).data, width, height };
}

function refuseTooLarge(width, height) {
  if (width <= MAX_SIDE && height <= MAX_SIDE && width * height <= MAX_PIXELS) return;
  throw new Complaint(
    `The result would have ${width} x ${height} pixels, more than a browser can show (${MAX_PIXELS / 1e6} million, ` +
      `${MAX_SIDE} a side). Take a smaller photo or a model that keeps the size; kd-utils sharpen has no such limit.`,
  );
}

// ---- the model

async function loadModel(model, engine) {
  const key = model.url ?? model.bytes;
  if (loaded.key === key) return loaded;

  const bytes = model.bytes ?? (await download(model.url));
  const { scale, reach } = describe(bytes, model.name);
  runtime ??= await loadRuntime(engine);
  await loaded.session?.release();
  loaded = { key: null };

  let session;
  try {
    session = await createSession(bytes);
  } catch (error) {
    throw new Complaint(`${model.name} cannot be run: ${error?.message ?? error}`);
  }
  loaded = { key, session, scale, reach };
  return loaded;
}

async function download(url) {
  const answer = await fetch(url).catch(() => null);
  if (!answer?.ok) throw new Complaint("The model did not come. Is kd-utils demo still running?");
  return new Uint8Array(await answer.arrayBuffer());
}

/** The scale and the reach that kd-utils writes into its .onnx files. */
function describe(bytes, name) {
  let said = {};
  try {
    said = readMetadata(bytes);
  } catch {
    throw new Complaint(`${name} is no ONNX file.`);
  }
  const scale = Number(said.scale);
  const reach = Number(said.radius);
  if (![1, 2, 4].includes(scale) || !(reach > 0)) {
    throw new Complaint(`${name} does not say its scale and reach. Files made by kd-utils export STUDENT --to onnx do.`);
  }
  return { scale, reach };
}

async function createSession(bytes) {
  if (runtime.engine === "WebGPU") {
    try {
      return await runtime.ort.InferenceSession.create(bytes, { executionProviders: ["webgpu"] });
    } catch (error) {
      console.warn("WebGPU does not take this model, WASM does:", error);
      runtime = await loadRuntime("wasm");
    }
  }
  return runtime.ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

/** onnxruntime-web with WebGPU where there is a GPU, else with as many threads as the page may have. */
async function loadRuntime(engine) {
  const gpu = engine !== "wasm" && (await hasGpu(engine === "webgpu"));
  const ort = await import(gpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  return { ort, engine: gpu ? "WebGPU" : `WASM, ${threads} ${threads === 1 ? "thread" : "threads"}` };
}

/** Whether there is a real GPU; one that a CPU plays is slower than WASM, and only taken where it is asked for. */
async function hasGpu(takeAny) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return false;
  return takeAny || !(adapter.isFallbackAdapter ?? adapter.info?.isFallbackAdapter);
}

// ---- the tiles

/** The student's output, RGBA. */
async function sharpen(session, pixels, width, height, scale, reach) {
  const multiple = 4 / scale; // the student's own grid
  const size = Math.max(scale === 1 ? 512 : 256, 4 * reach);
  const columns = windows(width, size, reach, multiple);
  const rows = windows(height, size, reach, multiple);
  const count = columns.length * rows.length;
  self.postMessage({ status: `Sharpening with ${runtime.engine}` });

  const { Tensor } = runtime.ort;
  const out = new Uint8ClampedArray(width * scale * height * scale * 4);
  let done = 0;
  for (const down of rows) {
    for (const across of columns) {
      const shape = [1, 3, down.end - down.start, across.end - across.start];
      const image = new Tensor("float32", cutOut(pixels, width, across, down), shape);
      const { sharp } = await session.run({ image });
      const tile = keepCore(await sharp.getData(), scale, across, down);
      sharp.dispose();
      paste(out, width * scale, tile);
      done += 1;
      self.postMessage({ tile, done: done / count }, [tile.core.buffer]);
    }
  }
  return out;
}
