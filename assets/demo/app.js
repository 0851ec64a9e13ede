// The page: what is chosen, what the worker says, and what is shown and saved.

import { Compare } from "./compare.js";

const ids = [
  "drop", "pick", "sample", "file", "model", "status", "running", "bar", "cancel", "error", "result", "sizes", "download",
  "view", "stage", "before", "after", "divider", "position", "fit", "actual",
];
const page = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
const compare = new Compare(page);
const engine = new URLSearchParams(location.search).get("engine"); // "wasm" or "webgpu", to try one of them

const models = []; // {name, label, url} of the server, {name, label, bytes} of one's own
let photo = null; // {blob, name}
let worker = null;
let isRunning = false;

// ---- what is chosen

async function listModels() {
  const answer = await fetch("models.json").catch(() => null);
  if (!answer?.ok) {
    complain("The list of models did not come. Is kd-utils demo still running?");
    return;
  }
  for (const model of await answer.json()) addModel(model);
  page.model.selectedIndex = 0;
}

function addModel(model) {
  models.push(model);
  page.model.add(new Option(model.label, String(models.length - 1)));
  page.model.selectedIndex = page.model.length - 1;
}

async function take(file) {
  if (!file) return;
  if (file.name.toLowerCase().endsWith(".onnx")) {
    addModel({ name: file.name, label: `${file.name} (yours)`, bytes: new Uint8Array(await file.arrayBuffer()) });
    if (photo) run();
    else say(`${file.name} is chosen. Now choose a photo.`);
    return;
  }
  photo = { blob: file, name: file.name };
  run();
}

page.pick.addEventListener("click", () => page.file.click());
page.file.addEventListener("change", () => {
  take(page.file.files[0]);
  page.file.value = ""; // so that the same file can be chosen again
});
page.sample.addEventListener("click", async () => {
  const answer = await fetch("sample.jpg").catch(() => null);
  if (answer?.ok) take(new File([await answer.blob()], "sample.jpg"));
  else complain("The sample did not come. Is kd-utils demo still running?");
});
page.model.addEventListener("change", () => photo && run());

addEventListener("dragover", (event) => {
  event.preventDefault();
  page.drop.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) page.drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  page.drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// ---- the work

function run() {
  if (isRunning) stopWorker(); // its photo is no longer wanted
  complain("");
  page.result.hidden = true;
  page.download.disabled = true;
  page.bar.value = 0;
  setRunning(true);
  worker ??= startWorker();
  const model = models[Number(page.model.value)];
  if (!model) {
    setRunning(false);
    complain("There is no model to run. Drop an .onnx file that kd-utils export made.");
    return;
  }
  worker.postMessage({ photo: photo.blob, name: photo.name, model, engine });
}

function startWorker() {
  const started = new Worker("worker.js", { type: "module" });
  started.onmessage = ({ data }) => {
    if (data.status) say(data.status);
    if (data.photo) open(data.photo);
    if (data.tile) showTile(data.tile, data.done);
    if (data.result) finish(data.result);
    if (data.error) {
      end("");
      complain(data.error);
    }
  };
  started.onerror = (event) => {
    stopWorker();
    end("");
    complain(`It did not work: ${event.message || "the worker could not be loaded"}`);
  };
  return started;
}

function stopWorker() {
  worker?.terminate();
  worker = null;
}

function open(opened) {
  page.result.hidden = false;
  compare.open(opened);
  const { width, height, scale } = opened;
  page.sizes.textContent = `${width} x ${height} → ${width * scale} x ${height * scale}`;
}

function showTile({ core, x, y, width, height }, done) {
  compare.put(core, x, y, width, height);
  page.bar.value = done;
}

function finish({ pixels, width, height, engine, seconds }) {
  compare.put(pixels, 0, 0, width, height);
  page.download.disabled = false;
  end(`Done in ${seconds.toFixed(1)} seconds with ${engine}.`);
}

function cancel() {
  if (!isRunning) return;
  stopWorker();
  end("Cancelled.");
}
page.cancel.addEventListener("click", cancel);
addEventListener("keydown", (event) => event.key === "Escape" && cancel());

page.download.addEventListener("click", () => {
  page.after.toBlob((blob) => {
    if (!blob) {
      complain("This browser could not make a PNG of it: it has too many pixels.");
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${photo.name.replace(/\.[^.]*$/, "")}-sharp.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
});

// ---- what is said

function setRunning(running) {
  isRunning = running;
  page.running.hidden = !running;
}

function end(text) {
  setRunning(false);
  say(text);
}

function say(text) {
  page.status.textContent = text;
}

function complain(text) {
  page.error.textContent = text;
}

await listModels();
