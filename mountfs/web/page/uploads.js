// Uploads: by button or by dropping files and folders; a few at a time, each with its progress and a way to stop it.

import { $, ask, bytes, counted, icon, make, named, t, tell, understand, url } from "/page/words.js";
import { here, join, mayReplace, refresh } from "/page/files.js";

const AT_ONCE = 3;
const waiting = [];
let running = 0;
let done = 0;

export function begin() {
  const input = $("upload-input");
  $("upload").onclick = () => input.click();
  input.onchange = async () => {
    const files = [...input.files].map((file) => ({ name: file.name, file }));
    input.value = "";
    await add(files);
  };
  dropping();
}

function dropping() {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = () => $("files").classList.toggle("dropping", depth > 0);
  window.addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) depth += 1;
    show();
  });
  window.addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) depth = Math.max(0, depth - 1);
    show();
  });
  window.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  window.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? await fromEntries(entries) : [...event.dataTransfer.files].map((file) => ({ name: file.name, file }));
    await add(files);
  });
}

// Dropped folders with everything in them; an empty one has no file and is made as a folder.
async function fromEntries(entries, prefix = "") {
  const out = [];
  for (const entry of entries) {
    const name = join(prefix, entry.name);
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
      if (file) out.push({ name, file });
      else tell(t("failed", { reason: name }), true);
      continue;
    }
    const inside = await children(entry);
    if (!inside.length) out.push({ name, file: null });
    out.push(...(await fromEntries(inside, name)));
  }
  return out;
}

async function children(folder) {
  const reader = folder.createReader();
  const out = [];
  for (;;) {
    const batch = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!batch.length) return out;
    out.push(...batch);
  }
}

async function add(files) {
  if (!files.length) return;
  const folder = here.path;
  const tops = [...new Set(files.filter((each) => !each.name.includes("/") && each.file).map((each) => each.name))];
  if (!(await mayReplace(tops))) return;
  for (const { name, file } of files) {
    const upload = { path: join(folder, name), name, file, row: null, request: null, stopped: false };
    draw(upload);
    waiting.push(upload);
  }
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    const upload = waiting.shift();
    if (upload.stopped) continue;
    running += 1;
    send(upload)
      .then(() => finish(upload), (error) => fail(upload, error))
      .finally(() => {
        running -= 1;
        next();
        if (!running && !waiting.length) end();
      });
  }
}

function end() {
  if (done) tell(counted("uploads.all", done));
  done = 0;
  refresh();
}

function send(upload) {
  if (!upload.file) return ask("POST", "mkdir", { path: upload.path }).catch((error) => {
    if (error.code !== "Exists") throw error;
  });
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    upload.request = request;
    request.open("PUT", url("file", { path: upload.path }));
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (event) => progress(upload, event.loaded, event.total);
    request.onerror = () => reject(new Error(t("failed.unreachable")));
    request.onabort = () => reject(new Error(t("uploads.cancelled")));
    request.onload = () => {
      try {
        resolve(understand(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    };
    request.send(upload.file);
  });
}

function draw(upload) {
  upload.bar = make("progress", { max: 1, value: 0, "aria-label": upload.name });
  upload.state = make("span", { class: "upload-state" }, t("uploads.waiting"));
  const stop = make("button", { class: "icon", type: "button", "aria-label": t("uploads.cancel", { name: upload.name }) }, icon("close"));
  stop.onclick = () => {
    if (upload.request && !upload.over) upload.request.abort();
    else {
      upload.stopped = true;
      upload.row.remove();
    }
  };
  upload.row = make("li", {}, make("span", { class: "upload-name", title: upload.name }, named(upload.name)), upload.bar, upload.state, stop);
  $("uploads").append(upload.row);
}

function progress(upload, loaded, total) {
  upload.bar.value = total ? loaded / total : 1;
  upload.state.textContent = `${bytes(loaded)} / ${bytes(total)}`;
}

function finish(upload) {
  done += 1;
  upload.over = true;
  upload.bar.value = 1;
  upload.state.textContent = t("uploads.done");
  setTimeout(() => upload.row.remove(), 2500);
}

function fail(upload, error) {
  upload.over = true;
  upload.row.classList.add("bad");
  upload.state.textContent = error.message;
}
