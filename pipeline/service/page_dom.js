// Elements, requests and words that all parts of the page use. Text is set as text, never as markup.

export const h = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(9).filter((child) => child != null && child !== false));
  return element;
};

export const at = (id) => document.getElementById(id);
export const name = (text) => h("bdi", {}, text); // of any script and direction

// Ask the API; what it refuses is an Error with the server's own words.
export const ask = async (path, { method = "GET", json, ...more } = {}) => {
  const body = json === undefined ? more.body : JSON.stringify(json);
  const headers = { ...(json === undefined ? {} : { "content-type": "application/json" }), ...more.headers };
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, signal: more.signal, cache: "no-store" });
  } catch (fault) {
    throw Object.assign(new Error("the server does not answer."), { status: 0, fault });
  }
  const kind = answer.headers.get("content-type") ?? "";
  const value = kind.startsWith("application/json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw Object.assign(new Error(value.error ?? `the server answered ${answer.status}.`), { status: answer.status });
  return value;
};

export const count = (number) => number.toLocaleString("en");
export const bytes = (number) => {
  if (!number) return "-";
  const power = Math.min(4, Math.floor(Math.log10(number) / 3));
  const value = number / 1000 ** power;
  return `${value.toFixed(power && value < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
};
export const duration = (seconds) => {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86400)} days`;
};
export const when = (seconds) => {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
};

// A table whose first column names the row; columns: [title, cell(row)].
export const table = (caption, columns, rows) =>
  h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([title]) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell], i) =>
        i ? h("td", {}, cell(row)) : h("th", { scope: "row" }, cell(row))))))));

// Keep the focus where it was when a part of the page is drawn again.
export const redraw = (place, ...children) => {
  const key = document.activeElement?.closest("[data-key]")?.dataset.key;
  const inside = place.contains(document.activeElement);
  const scrolled = place.querySelector(".tall")?.scrollTop;
  place.replaceChildren(...children.filter(Boolean));
  if (scrolled) place.querySelector(".tall").scrollTop = scrolled;
  if (inside && key) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
};
