// The form of a new job, made from the API's own description of it, and the form of an upload.
import { ask, at, bytes, h } from "./page_dom.js";

// Options that most people want; the others are behind "More options".
const MAIN = { import: ["own"], flow: ["engine"], pack: ["size"], train: ["stage", "set"], test: ["dataset"] };
const HINTS = { names: "known-data", name: "known-data", folders: "known-runs", manifest: "known-manifests", checkpoint: "known-runs", resume: "known-runs", dataset: "known-data" };
const SLICE = 8 * 2 ** 20;

let kinds = {};
let added = () => {};

// ---- a new job ----------------------------------------------------------------------------------

const types = (schema) => (schema.anyOf ?? [schema]).filter((each) => each.type !== "null");

const field = (kind, name, schema, needed) => {
  const [about] = types(schema);
  const id = `option-${name}`;
  const fallback = schema.default;
  const common = { id, name, "data-type": about.type, "data-items": about.items?.type, "aria-describedby": `${id}-said` };
  const said = h("span", { class: "soft said", id: `${id}-said` }, schema.description);
  const label = h("label", { for: id }, name.replaceAll("_", " "), needed && h("span", { class: "soft" }, " (needed)"));
  if (about.type === "boolean") {
    return h("div", { class: "field check" }, h("input", { ...common, type: "checkbox", checked: fallback === true }), label, said);
  }
  const number = about.type === "integer" || about.type === "number";
  const input = about.type === "array" && !HINTS[name]
    ? h("textarea", { ...common, rows: 1, required: needed })
    : h("input", {
      ...common, type: number ? "number" : "text", min: about.minimum, step: about.type === "number" ? "any" : null,
      required: needed, list: kind === "import" ? null : HINTS[name], autocomplete: "off",
      placeholder: fallback != null && fallback !== "" ? String(fallback) : null,
    });
  if (about.type === "array") said.append(" Several: with commas, or one a line.");
  return h("div", { class: "field" }, label, input, said);
};

const valueOf = (input) => {
  if (input.type === "checkbox") return input.checked === input.defaultChecked ? undefined : input.checked;
  const text = input.value.trim();
  if (!text) return undefined;
  const plain = (word, type) => (type === "integer" || type === "number" ? Number(word) : word);
  if (input.dataset.type !== "array") return plain(text, input.dataset.type);
  return text.split(/[\n,]/).map((word) => word.trim()).filter(Boolean).map((word) => plain(word, input.dataset.items));
};

const drawForm = (kind, values = {}) => {
  const schema = kinds[kind];
  const needed = schema.required ?? [];
  // of a manifest no name is needed, but it is what one wants to say
  const main = [...needed, ...(MAIN[kind] ?? []), ...("names" in schema.properties ? ["names"] : [])];
  const fields = Object.entries(schema.properties).map(([name, about]) => [name, field(kind, name, about, needed.includes(name))]);
  const shown = fields.filter(([name]) => main.includes(name)).map(([, each]) => each);
  const rest = fields.filter(([name]) => !main.includes(name)).map(([, each]) => each);
  const select = h("select", { id: "kind", onchange: (event) => drawForm(event.target.value) },
    Object.keys(kinds).map((each) => h("option", { value: each, selected: each === kind }, each)));
  const more = h("details", {}, h("summary", {}, "More options"), h("div", { class: "fields" }, rest));
  at("job").replaceChildren(
    h("div", { class: "fields" }, h("div", { class: "field" }, h("label", { for: "kind" }, "command"), select), shown),
    rest.length ? more : "",
    h("div", { class: "tools" }, h("button", { type: "submit", class: "main" }, "Start"), h("span", { class: "fault", role: "alert" })));
  for (const [name, value] of Object.entries(values)) {
    const input = at(`option-${name}`);
    if (!input) continue;
    if (input.type === "checkbox") input.checked = value;
    else input.value = Array.isArray(value) ? value.join("\n").replaceAll("\n", input.tagName === "INPUT" ? ", " : "\n") : value;
    if (more.contains(input)) more.open = true;
  }
};

const submit = async (event) => {
  event.preventDefault();
  const form = at("job");
  const fault = form.querySelector(".fault");
  const given = [...form.querySelectorAll("[name]")].map((input) => [input.name, valueOf(input)]);
  fault.textContent = "";
  try {
    const json = { kind: at("kind").value, arguments: Object.fromEntries(given.filter(([, value]) => value !== undefined)) };
    added(await ask("/api/jobs", { method: "POST", json }));
  } catch (problem) {
    fault.textContent = problem.message;
  }
};

// Fill in the form, for a person to look at before it is sent.
export const fillIn = (kind, values) => {
  if (!kinds[kind]) return;
  drawForm(kind, values);
  at("new").scrollIntoView({ block: "start" });
  at("job").querySelector("button.main").focus({ preventScroll: true });
};
export const again = (job) => fillIn(job.kind, job.arguments);

export const suggest = (id, values) => {
  const list = at(id) ?? document.body.appendChild(h("datalist", { id }));
  list.replaceChildren(...values.map((value) => h("option", { value })));
};

// ---- an upload ------------------------------------------------------------------------------------

const slug = (text) => text.replace(/\.[^.]+$/, "").replace(/[^A-Za-z0-9_-]+/g, "_").replace(/^[_-]+|[_-]+$/g, "") || "video";

// The same file that was chosen before goes on where it broke off.
const known = (file, dataset) => `vsodpipe-upload ${dataset} ${file.name} ${file.size} ${file.lastModified}`;

const begin = async (file, dataset) => {
  const id = localStorage.getItem(known(file, dataset));
  if (id) {
    try {
      const found = await ask(`/api/uploads/${id}`);
      if (found.job === null) return found;
    } catch (fault) {
      if (fault.status !== 404) throw fault;
    }
  }
  const made = await ask("/api/uploads", { method: "POST", json: { name: file.name, bytes: file.size, dataset } });
  localStorage.setItem(known(file, dataset), made.id);
  return made;
};

const send = async (file, dataset, show, signal) => {
  let now = await begin(file, dataset);
  while (now.job === null) {
    show(now);
    const body = file.slice(now.offset, now.offset + SLICE);
    const headers = { "upload-offset": String(now.offset) };
    now = await ask(`/api/uploads/${now.id}`, { method: "PATCH", body, headers, signal });
  }
  localStorage.removeItem(known(file, dataset));
  return now.job;
};

const drawUpload = () => {
  const file = h("input", { type: "file", id: "file", required: true, onchange: () => (dataset.value ||= slug(file.files[0]?.name ?? "")) });
  const dataset = h("input", { type: "text", id: "dataset", required: true, pattern: "[A-Za-z0-9_][A-Za-z0-9_.\\-]*", autocomplete: "off", "aria-describedby": "dataset-said" });
  const fault = h("span", { class: "fault", role: "alert" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "progress of the upload" });
  const words = h("span", { class: "soft", role: "status" });
  const stop = h("button", { type: "button", hidden: true }, "Pause");
  const start = h("button", { type: "submit", class: "main" }, "Upload");
  const form = at("sending");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [chosen] = file.files;
    const control = new AbortController();
    stop.onclick = () => control.abort();
    const begun = performance.now();
    let first = null;
    const show = ({ offset, bytes: total }) => {
      first ??= offset;
      [bar.max, bar.value] = [total, offset];
      const rate = (offset - first) / ((performance.now() - begun) / 1000);
      words.textContent = `${bytes(offset) === "-" ? "0 B" : bytes(offset)} of ${bytes(total)}${rate > 0 ? `, ${bytes(rate)}/s` : ""}`;
    };
    [fault.textContent, start.disabled, stop.hidden, bar.hidden] = ["", true, false, false];
    try {
      const id = await send(chosen, dataset.value, show, control.signal);
      words.textContent = `${chosen.name} is here; its import is job ${id}.`;
      bar.hidden = true;
      added(await ask(`/api/jobs/${id}`));
    } catch (problem) {
      fault.textContent = control.signal.aborted ? "Paused. Upload the same file again to go on." : problem.message;
    }
    [start.disabled, stop.hidden] = [false, true];
  });
  form.replaceChildren(
    h("div", { class: "fields" },
      h("div", { class: "field" }, h("label", { for: "file" }, "video file or archive"), file),
      h("div", { class: "field" }, h("label", { for: "dataset" }, "data set"), dataset,
        h("span", { class: "soft said", id: "dataset-said" }, "A name of your own, or a card such as davis for its official archive."))),
    bar,
    h("div", { class: "tools" }, start, stop, words, fault));
};

export const startForms = async (whenAdded) => {
  added = whenAdded;
  kinds = await ask("/api/kinds");
  at("job").addEventListener("submit", submit);
  drawForm(kinds.flow ? "flow" : Object.keys(kinds)[0]);
  drawUpload();
};
