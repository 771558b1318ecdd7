/* Chooses run, task and theme, says the result in a sentence, and redraws when the page changes width. */

const DRAW = { accuracy: drawAccuracy, effects: drawEffects, pareto: drawPareto, stages: drawStages, subjects: drawSubjects, fusion: drawFusion };
const state = { run: DATA.runs[0], task: DATA.runs[0].tasks[0] };

const rowOf = (channel, control = "") => state.task.rows.find((row) => row.channel === channel && row.control === control);
const effectOf = (channel, kind) => state.task.effects.find((effect) => effect.channel === channel && effect.kind === kind && effect.difference !== null);

function tile(what, value, more, tone) {
  return h("div", { class: "tile" }, h("div", { class: "what" }, what), h("div", { class: `value ${tone || ""}` }, value), h("div", { class: "more" }, more));
}

function effectTile(what, effect) {
  if (!effect) return null;
  const tone = { higher: "good", lower: "bad" }[effect.verdict];
  return tile(what, points(effect.difference), `${interval(effect.low, effect.high, points)} ${effect.verdict}`, tone);
}

function champion() {
  const last = state.task.rows.filter((row) => !row.control && row.channel !== "receiver");
  return rowOf("c2c") || last[last.length - 1] || state.task.rows[0];
}

function sentence(row) {
  const name = channelName(row.channel), base = rowOf("receiver"), gain = effectOf(row.channel, "to_receiver");
  const scored = `${name} answers ${percent(row.accuracy)}% of ${state.task.name} right`;
  if (!base || row === base || !gain) return `${scored}.`;
  const word = gain.verdict.startsWith("same") ? gain.verdict : gain.verdict.startsWith("not") || gain.verdict.includes(",") ? "a difference that this run does not resolve" : `${points(gain.difference)} points`;
  return `${scored}, the receiver alone ${percent(base.accuracy)}%: ${word}.`;
}

function renderHero() {
  const row = champion(), run = state.run, faster = state.task.speed_ups.find((found) => found.arm[0] === row.channel && found.arm[1] === row.control);
  byId("pair").textContent = [run.receiver.join(", "), run.sharers.join(" + ")].filter(Boolean).join(" ← ");
  byId("headline").textContent = sentence(row);
  byId("tiles").replaceChildren(...[
    tile(`${channelName(row.channel)} accuracy, %`, percent(row.accuracy), `${interval(row.accuracy_low, row.accuracy_high, percent)} n ${row.n}`),
    effectTile("vs receiver, points", effectOf(row.channel, "to_receiver")),
    effectTile("vs T2T, points", effectOf(row.channel, "to_t2t")),
    effectTile("content effect, points", effectOf(row.channel, "content")),
    faster ? tile("faster than T2T, end to end", `${significant(faster.ratio)}×`, `${faster.low === null ? "" : `[${significant(faster.low)}, ${significant(faster.high)}] `}${faster.n} questions${faster.lost ? `, ${faster.lost} lost` : ""}`) : null,
  ].filter(Boolean));
  byId("notices").replaceChildren(...notices());
}

function notices() {
  const failed = state.task.rows.reduce((sum, row) => sum + row.errors, 0), found = [...state.run.warnings];
  if (state.run.status !== "success") found.unshift(`This run is ${state.run.status}: what follows may be a part of it.`);
  if (failed) found.push(`${failed} ${failed === 1 ? "answer" : "answers"} ended in an error and count as not right.`);
  return found.map((words) => h("p", { class: "notice" }, words));
}

function renderCharts() {
  for (const box of document.querySelectorAll("[data-chart]")) {
    const width = Math.max(280, Math.floor(box.clientWidth));
    box.replaceChildren(...DRAW[box.dataset.chart]({ task: state.task, run: state.run, width }));
  }
}

function renderSubjectPicker() {
  const channels = [...new Set(state.task.subjects.map((gain) => gain.channel))];
  byId("subject-channel").replaceChildren(...channels.map((channel) => h("option", { value: channel, selected: channel === "c2c" }, channelName(channel))));
  byId("subject-channel").parentElement.hidden = !channels.length;
}

function render() {
  renderHero();
  renderSubjectPicker();
  renderCharts();
  setQuestions(state.task);
}

function pickRun(index) {
  state.run = DATA.runs[index];
  state.task = state.run.tasks[0];
  byId("task").replaceChildren(...state.run.tasks.map((task, place) => h("option", { value: place }, task.name)));
  byId("task-picker").hidden = state.run.tasks.length < 2;
  render();
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

byId("theme").addEventListener("click", () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]; applyTheme(); });
dark.addEventListener("change", applyTheme);
byId("run").addEventListener("change", () => pickRun(Number(byId("run").value)));
byId("task").addEventListener("change", () => { state.task = state.run.tasks[Number(byId("task").value)]; render(); });
byId("subject-channel").addEventListener("change", renderCharts);

let seen = document.documentElement.clientWidth;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === seen) return;
  seen = document.documentElement.clientWidth;
  requestAnimationFrame(renderCharts);
});

applyTheme();
pickRun(0);
document.documentElement.dataset.ready = "true";
