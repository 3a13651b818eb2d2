// Data sets, the viewer of their videos, and runs.
import { ask, at, bytes, count, h, name, redraw, table, when } from "./page_dom.js";
import { fillIn, suggest } from "./page_forms.js";

let sets = [];

const by = (text, key, onclick, more = {}) => h("button", { type: "button", "data-key": key, onclick, ...more }, text);
const link = (href, text) => h("a", { href, target: "_blank", rel: "noopener" }, text);
const last = (url) => decodeURIComponent(url.split("/").pop());

// ---- data sets ------------------------------------------------------------------------------------

const flowCell = (set) => {
  if (!set.flow.length) return "-";
  const forms = set.flow.map((each) => each.form);
  return set.flow.map((each) => {
    const mixed = forms.indexOf(each.form) !== forms.lastIndexOf(each.form);
    return h("div", { class: mixed ? "fault" : null, title: `fingerprint ${each.fingerprint}` },
      `${each.form.replace(/^(JPEG)?FLOWS?_?/i, "").toLowerCase() || "picture"} `, h("code", {}, each.fingerprint.slice(0, 6)),
      each.videos < set.videos && ` ${each.videos} of ${set.videos} videos`, mixed && " (two kinds)");
  });
};

// What is the next thing to do with a data set, as a button that fills in the form.
const next = (set) => {
  const step = set.problem || !set.frames ? null
    : !set.flow.length ? ["flow", { names: [set.name] }]
      : !set.manifests.length ? ["manifest", { names: [set.name] }]
        : !set.stores.length ? ["pack", { name: set.name }] : null;
  return step && by(`${step[0]} …`, `next-${set.name}`, () => fillIn(...step), { "aria-label": `next for ${set.name}: ${step[0]}` });
};

const drawSets = () => {
  const columns = [
    ["data set", (set) => (set.frames ? by(name(set.name), `set-${set.name}`, () => choose(set.name, true), { class: "link", title: "look at its videos" }) : name(set.name))],
    ["videos", (set) => (set.videos ? count(set.videos) : "-")],
    ["frames", (set) => count(set.frames)],
    ["masks", (set) => count(set.masks)],
    ["flow", flowCell],
    ["manifests", (set) => (set.manifests.length ? set.manifests.map((url) => h("div", {}, link(url, last(url)))) : "-")],
    ["stores", (set) => (set.stores.length ? set.stores.map((store) => h("div", { title: store.url }, `${store.tier ?? "hdf5"} ${bytes(store.bytes)}`)) : "-")],
    ["size", (set) => bytes(set.bytes)],
    ["next", (set) => (set.problem ? h("span", { class: "fault words", title: set.problem }, set.problem) : next(set))],
  ];
  const none = h("p", { class: "soft" }, "The data root is empty. Upload a video, or start an import.");
  redraw(at("datasets"), sets.length ? table("Data sets", columns, sets) : none);
};

// ---- the viewer -------------------------------------------------------------------------------------

const shown = { set: null, video: null, frames: [], maps: [], at: 0, asked: 0 };
const KEYS = [["img", "frame"], ["gt", "mask"], ["flow", "flow"]];

const picture = (title) => h("figure", {}, h("img", { alt: title, decoding: "async" }), h("figcaption", {}, title));

const panes = () => {
  const made = KEYS.filter(([key]) => shown.frames.some((frame) => frame[key]))
    .map(([key, title]) => [picture(title), (place) => shown.frames[place]?.[key]]);
  return [...made, ...shown.maps.map((map) => [picture(`map of ${map.run}`), (place) => map.files[place]])];
};

const choose = async (set, jump = false) => {
  const asked = ++shown.asked;
  try {
    const { videos } = await ask(`/api/data/${encodeURIComponent(set)}`);
    if (asked !== shown.asked) return;
    const video = videos.some((each) => set === shown.set && each.name === shown.video) ? shown.video : videos[0]?.name;
    Object.assign(shown, { set, videos });
    await open(video);
    if (jump) at("viewer").scrollIntoView({ block: "start" });
  } catch (fault) {
    redraw(at("view"), h("p", { class: "fault", role: "alert" }, fault.message));
  }
};

const open = async (video) => {
  const asked = ++shown.asked;
  const found = await ask(`/api/data/${encodeURIComponent(shown.set)}/frames?video=${encodeURIComponent(video)}`);
  if (asked !== shown.asked) return; // another was chosen meanwhile
  Object.assign(shown, { video, frames: found.frames, maps: found.maps, at: 0 });
  drawViewer();
};

const drawViewer = () => {
  const total = shown.frames.length;
  const all = panes();
  const pick = (label, id, values, value, onchange) => h("label", {}, label,
    h("select", { id, "data-key": id, onchange: (event) => onchange(event.target.value) },
      values.map(([key, text]) => h("option", { value: key, selected: key === value }, text))));
  const slider = h("input", { type: "range", min: 0, max: Math.max(0, total - 1), value: shown.at, "aria-label": "frame", "data-key": "slider" });
  const words = h("output", {});
  const show = (place) => {
    shown.at = Math.max(0, Math.min(total - 1, place));
    slider.value = shown.at;
    const label = `frame ${shown.frames[shown.at].name}, ${shown.at + 1} of ${total}`;
    slider.setAttribute("aria-valuetext", label);
    words.textContent = label;
    for (const [figure, urlAt] of all) {
      const url = urlAt(shown.at);
      const image = figure.firstChild;
      figure.classList.toggle("none", !url);
      if (url) image.src = url;
      else image.removeAttribute("src");
      const ahead = urlAt(shown.at + 1);
      if (ahead) new Image().src = ahead; // the next one is there when it is asked for
    }
  };
  const step = (by) => show(shown.at + by);
  slider.addEventListener("input", () => show(Number(slider.value)));
  const keys = (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -total, End: total };
    if (!(event.key in moves) || event.target.tagName === "SELECT") return;
    event.preventDefault();
    step(moves[event.key]);
  };
  const sets_ = sets.filter((set) => set.frames).map((set) => [set.name, set.name]);
  redraw(at("view"),
    h("div", { class: "strip", onkeydown: keys, tabindex: "0", role: "region", "aria-label": "viewer: arrow keys change the frame" },
      h("div", { class: "tools" },
        pick("Data set", "view-set", sets_, shown.set, (value) => choose(value)),
        shown.videos.length > 1 && pick("Video", "view-video", shown.videos.map((each) => [each.name, `${each.name} (${count(each.frames)})`]), shown.video, open)),
      h("div", { class: "panes" }, all.map(([figure]) => figure)),
      h("div", { class: "slider" },
        h("button", { type: "button", "aria-label": "previous frame", "data-key": "before", onclick: () => step(-1) }, "‹"),
        slider,
        h("button", { type: "button", "aria-label": "next frame", "data-key": "after", onclick: () => step(1) }, "›"),
        words)));
  if (total) show(shown.at);
};

// ---- runs -------------------------------------------------------------------------------------------

const scores = (run) => run.scores.map((row) =>
  h("div", {}, h("span", { class: "soft" }, name(row.dataset), " "),
    Object.entries(row.scores).map(([what, value]) => h("span", { class: "score" }, `${what} `, h("b", {}, value.toFixed(3))))));

const drawRuns = (runs) => {
  const columns = [
    ["run", (run) => name(run.name)],
    ["model", (run) => run.model],
    ["stages", (run) => run.stages.join(", ") || "-"],
    ["started", (run) => when(run.started)],
    ["checkpoints", (run) => run.checkpoints.join(", ") || "-"],
    ["scores", (run) => (run.scores.length ? scores(run) : "-")],
    ["report", (run) => (run.reports.length ? run.reports.map((url) => h("div", {}, link(url, last(url)))) : "-")],
  ];
  redraw(at("trained"), runs.length ? table("Runs", columns, runs) : h("p", { class: "soft" }, "No run yet."));
};

export const refresh = async () => {
  const [data, trained] = await Promise.all([ask("/api/data"), ask("/api/runs")]);
  sets = data.datasets;
  drawSets();
  drawRuns(trained.runs);
  suggest("known-data", sets.map((set) => set.name));
  suggest("known-manifests", [...new Set(sets.flatMap((set) => set.manifests))].map((url) => last(url)));
  suggest("known-runs", trained.runs.map((run) => `runs/${run.name}`));
  const first = sets.find((set) => set.frames);
  if (first && !shown.set) await choose(first.name);
  else if (!first) redraw(at("view"), h("p", { class: "soft" }, "There is no video to look at yet."));
};
