/* Chooses run, task, the run beside it and the theme; keeps them in the address, so that a link says what is seen. */

const state = { run: 0, task: 0, beside: null };
const taskOf = (run, name) => { const at = DATA.runs[run].tasks.findIndex((task) => task.name === name); return at < 0 ? null : at; };
const chosen = () => DATA.runs[state.run].tasks[state.task];

function besideTask() {
  if (state.beside === null) return null;
  const at = taskOf(state.beside, chosen().name);
  return at === null ? null : DATA.runs[state.beside].tasks[at];
}

function render() {
  const other = besideTask();
  for (const result of document.querySelectorAll(".result")) {
    const run = Number(result.dataset.run), name = DATA.runs[run].tasks[Number(result.dataset.task)].name;
    result.hidden = !(name === chosen().name && (run === state.run || (other && run === state.beside)));
    result.style.order = run === state.run ? 0 : 1;
  }
  byId("results").classList.toggle("beside", Boolean(other));
  const pair = [state.run, state.beside].sort((one, two) => one - two).join(" ");
  for (const card of document.querySelectorAll(".compared")) card.hidden = !other || card.dataset.pair !== pair || !["", chosen().name].includes(card.dataset.task);
  for (const link of document.querySelectorAll("[data-section]")) link.hidden = !sectionOf(link);
  setQuestions(chosen(), other, DATA.runs[state.run].name, other ? DATA.runs[state.beside].name : "");
}

function fillPickers() {
  const tasks = DATA.runs[state.run].tasks;
  byId("run").value = String(state.run);
  byId("task").replaceChildren(...tasks.map((task, place) => h("option", { value: place, selected: place === state.task }, task.name)));
  byId("task-picker").hidden = tasks.length < 2;
  for (const option of byId("beside").options) option.disabled = option.value === String(state.run);
  byId("beside").value = state.beside === null ? "" : String(state.beside);
}

function pick(change) {
  const name = chosen().name;
  Object.assign(state, change);
  if ("run" in change) state.task = taskOf(state.run, name) ?? 0;
  if (state.beside === state.run) state.beside = null;
  fillPickers();
  render();
  remember();
}

function remember() {
  const said = new URLSearchParams({ run: DATA.runs[state.run].id, task: chosen().name });
  if (state.beside !== null) said.set("beside", DATA.runs[state.beside].id);
  if (view.named !== null) said.set("question", view.named);
  history.replaceState(null, "", `#${said}`);
}

function recall() {
  const said = new URLSearchParams(location.hash.slice(1));
  const runOf = (name) => { const at = DATA.runs.findIndex((run) => run.id === said.get(name)); return at < 0 ? null : at; };
  state.run = runOf("run") ?? 0;
  state.task = taskOf(state.run, said.get("task")) ?? 0;
  state.beside = runOf("beside");
  fillPickers();
  render();
  if (said.get("question") !== null) openQuestion(said.get("question"));
}

const THEMES = ["Auto", "Light", "Dark"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let theme = "Auto";

function applyTheme() {
  const wanted = theme === "Auto" ? (dark.matches ? "dark" : "light") : theme.toLowerCase();
  document.documentElement.dataset.theme = wanted;
  document.documentElement.style.colorScheme = wanted;
  byId("theme").textContent = `Theme: ${theme.toLowerCase()}`;
  byId("theme").setAttribute("aria-label", `Colour theme: ${theme === "Auto" ? "automatic" : theme.toLowerCase()}`);
}

function sectionOf(link) {
  const part = link.dataset.section;
  return byId(part) ?? document.querySelector(`.result:not([hidden]) [data-part="${part}"]`);
}

function goTo(event) {
  event.preventDefault();
  const target = sectionOf(event.currentTarget);
  target.querySelector("details:not(.detail details)")?.setAttribute("open", "");
  target.scrollIntoView();
}

for (const link of document.querySelectorAll("[data-section]")) link.addEventListener("click", goTo);
byId("theme").addEventListener("click", () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]; applyTheme(); });
dark.addEventListener("change", applyTheme);
byId("run").addEventListener("change", () => pick({ run: Number(byId("run").value) }));
byId("task").addEventListener("change", () => pick({ task: Number(byId("task").value) }));
byId("beside").addEventListener("change", () => pick({ beside: byId("beside").value === "" ? null : Number(byId("beside").value) }));
applyTheme();
unpacked(byId("data").textContent).then((data) => {
  DATA = data;
  window.addEventListener("hashchange", recall);
  recall();
  document.documentElement.dataset.ready = "true";
});
