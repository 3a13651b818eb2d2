// The page of the service. It asks its own origin alone, and shows what it gets as text.
import { ask, at } from "./page_dom.js";
import { refresh } from "./page_data.js";
import { startForms } from "./page_forms.js";
import { added, startJobs } from "./page_jobs.js";

const THEMES = ["system", "light", "dark"];
const button = at("theme");
const setTheme = (theme) => {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  button.dataset.now = theme;
  localStorage.setItem("vsodpipe-theme", theme);
};
const stored = localStorage.getItem("vsodpipe-theme");
setTheme(THEMES.includes(stored) ? stored : "system");
button.hidden = false;
button.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(button.dataset.now) + 1) % THEMES.length]));

const enter = async (event) => {
  event.preventDefault();
  const fault = at("login").querySelector(".fault");
  fault.textContent = "";
  try {
    await ask("/login", { method: "POST", json: { token: at("token").value } });
    at("token").value = "";
    await start();
  } catch (problem) {
    fault.textContent = problem.message;
  }
};

const start = async () => {
  const { ok } = await ask("/api/me");
  at("login").hidden = ok;
  at("inside").hidden = at("contents").hidden = !ok;
  if (!ok) return at("token").focus();
  await startForms(added);
  await Promise.all([startJobs(() => later()), refresh()]);
};

// Many jobs may end at once: one look at the data is enough for all of them.
let due = 0;
const later = () => {
  clearTimeout(due);
  due = setTimeout(() => refresh().catch(complain), 2100);
};
const complain = (fault) => (at("state").textContent = fault.message);

at("login").addEventListener("submit", enter);
start().catch(complain);
