// Jobs: those that are open with their progress, those that have ended, and the log of one.
import { ask, at, count, duration, h, redraw, table, when } from "./page_dom.js";
import { again } from "./page_forms.js";

const OPEN = ["queued", "waiting", "running"];
const jobs = new Map();
const CARDS = 8; // beyond these the data sets below would be far away
let all = false;
let older = null; // where the next page of ended jobs begins
let ended = () => {};

const badge = (state) => h("span", { class: `tag ${state}` }, state);
const by = (text, key, onclick, more = {}) => h("button", { type: "button", "data-key": key, onclick, ...more }, text);
const act = async (task, place) => {
  place.textContent = "";
  try {
    await task();
  } catch (fault) {
    place.textContent = fault.message;
  }
};

const status = (job) => {
  const now = job.progress;
  if (job.state === "queued") return "waits for its turn";
  if (job.state === "waiting") return "waits for another job on the same data";
  if (!now) return job.message ?? "starts";
  const rate = now.rate > 0 ? (now.rate >= 1 ? `${now.rate.toFixed(1)} ${now.unit}/s` : `${(1 / now.rate).toFixed(1)} s/${now.unit}`) : "";
  const left = now.eta != null && now.done < now.total ? `${duration(now.eta)} left` : "";
  return [`${now.label}: ${count(now.done)} of ${count(now.total)} ${now.unit}s`, rate, left, now.note].filter(Boolean).join(", ");
};

const card = (job) => {
  const fault = h("p", { class: "fault", role: "alert" });
  const now = job.progress;
  // without a value it moves: the job runs, and has not said how far it is
  const bar = h("progress", { max: now?.total || 1, value: now?.total ? now.done : null, hidden: job.state !== "running", "aria-label": `progress of job ${job.id}` });
  return h("article", { class: "card job", id: `job-${job.id}` },
    h("div", { class: "line" }, h("code", { class: "command" }, job.command), badge(job.state)),
    bar,
    h("div", { class: "line" },
      h("span", { class: "soft status" }, status(job)),
      h("span", { class: "buttons" },
        by("Log", `log-${job.id}`, () => showLog(job), { "aria-label": `log of job ${job.id}` }),
        by("Cancel", `cancel-${job.id}`, () => act(() => ask(`/api/jobs/${job.id}/cancel`, { method: "POST" }), fault), { "aria-label": `cancel job ${job.id}` }))),
    fault);
};

// Only the card that moved is touched: a page of many jobs stays cheap.
const move = (job) => {
  const place = at(`job-${job.id}`);
  if (!place) return;
  place.querySelector(".status").textContent = status(job);
  const bar = place.querySelector("progress");
  if (job.progress?.total) [bar.max, bar.value] = [job.progress.total, job.progress.done];
};

const draw = () => {
  const sorted = [...jobs.values()].sort((a, b) => b.id - a.id);
  const order = (job) => OPEN.indexOf(job.state);
  const open = sorted.filter((job) => OPEN.includes(job.state)).sort((a, b) => order(b) - order(a));
  const past = sorted.filter((job) => !OPEN.includes(job.state));
  const rest = open.slice(CARDS);
  redraw(at("open"), ...(open.length ? open.slice(0, CARDS).map(card) : [h("p", { class: "soft" }, "No job is open.")]),
    rest.length ? h("details", { open: all, ontoggle: (event) => (all = event.target.open) }, h("summary", {}, `${rest.length} more are open`), rest.map(card)) : "");
  const further = older ? h("div", { class: "tools" }, by("Older jobs", "older", more)) : "";
  if (!past.length) return redraw(at("past"), further);
  const columns = [
    ["command", (job) => h("code", { class: "command" }, job.command)],
    ["state", (job) => badge(job.state)],
    ["ended", (job) => when(job.ended)],
    ["took", (job) => (job.started ? duration(job.ended - job.started) : "-")],
    ["last words", (job) => h("span", { class: "words", title: job.message }, job.message ?? "-")],
    ["", (job) => [
      by("Log", `log-${job.id}`, () => showLog(job), { "aria-label": `log of job ${job.id}` }),
      by("Again", `again-${job.id}`, () => again(job), { "aria-label": `fill in the form like job ${job.id}` })]],
  ];
  redraw(at("past"), h("h3", {}, "Ended"), table("Ended jobs", columns, past), further);
};

const read = async (before) => {
  const found = await ask(`/api/jobs?limit=50${before ? `&before=${before}` : ""}`);
  for (const job of found.jobs) jobs.set(job.id, job);
  older = found.next;
};
const more = async () => {
  await read(older);
  draw();
};

// ---- the log ----------------------------------------------------------------------------------

const LINES = 5000;
let following = null;

export const showLog = (job) => {
  const text = at("log-text");
  at("log-title").textContent = job.command;
  text.textContent = "";
  following?.close();
  const lines = [];
  const paint = () => {
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 20;
    text.textContent = lines.join("\n") || "It has said nothing.";
    if (atEnd) text.scrollTop = text.scrollHeight;
  };
  let due = 0;
  following = new EventSource(`/api/events?job=${job.id}`);
  following.addEventListener("line", (event) => {
    lines.push(JSON.parse(event.data).text);
    if (lines.length > LINES) lines.splice(0, lines.length - LINES);
    due ||= requestAnimationFrame(() => {
      due = 0;
      paint();
    });
  });
  following.addEventListener("job", (event) => {
    // the stream of an ended job ends, and the browser would ask for it again for ever
    if (!OPEN.includes(JSON.parse(event.data).state)) following.close();
    paint();
  });
  at("log").showModal();
};

const closeLog = () => at("log").close();

// ---- live ---------------------------------------------------------------------------------------

const listen = () => {
  const source = new EventSource("/api/events");
  const say = (text) => (at("state").textContent = text);
  source.onopen = async () => {
    say("");
    try {
      await read(); // what happened while nobody listened
      draw();
    } catch (fault) {
      say(fault.message);
    }
  };
  source.onerror = () => {
    say("no connection, trying again");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again itself
    source.close();
    setTimeout(listen, 3000);
  };
  source.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    const before = jobs.get(job.id)?.state;
    jobs.set(job.id, { ...job, progress: job.progress ?? jobs.get(job.id)?.progress });
    if (before === job.state) return move(jobs.get(job.id));
    draw();
    if (!OPEN.includes(job.state)) ended(job);
  });
  source.addEventListener("progress", (event) => {
    const progress = JSON.parse(event.data);
    const job = jobs.get(progress.job);
    if (!job) return;
    job.progress = progress;
    move(job);
  });
  source.addEventListener("reload", source.onopen);
};

export const startJobs = async (whenEnded) => {
  ended = whenEnded;
  at("log-close").addEventListener("click", closeLog);
  at("log").addEventListener("close", () => following?.close());
  await read();
  draw();
  listen();
};

export const added = (job) => {
  jobs.set(job.id, job);
  draw();
  at(`job-${job.id}`)?.scrollIntoView({ block: "center" });
};
