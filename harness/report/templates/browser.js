/* The question browser: filters over columns, one page of rows in the document at a time. */

const PAGE_ROWS = 50;
const view = { questions: null, rows: [], page: 0, open: new Set(), named: null };

const rightIn = (arm, i) => arm.marks[i] === "1";
const FILTERS = [
  ["all", "all questions", () => true],
  ["disagree", "arms disagree", (q, i, arms) => arms.some((arm) => rightIn(arm, i)) && arms.some((arm) => arm.marks[i] === "0")],
  ["none", "nobody is right", (q, i, arms) => !arms.some((arm) => rightIn(arm, i))],
  ["invalid", "invalid answers", (q, i, arms) => arms.some((arm) => isInvalid(arm, i))],
  ["parsers", "parsers differ", (q, i, arms) => arms.some((arm) => arm.strict.length && arm.strict[i] !== arm.predicted[i] && arm.marks[i] !== "!")],
  ["errors", "errors", (q, i, arms) => arms.some((arm) => arm.marks[i] === "!")],
];

const predicted = (arm, i) => (arm.predicted.length ? arm.predicted[i] : -1);
const isInvalid = (arm, i) => (arm.marks[i] === "0" || arm.marks[i] === "1") && predicted(arm, i) < 0;
const shownArms = () => view.questions.arms.filter((arm) => byId("controls").checked || !arm.control);
const matchedArms = () => view.questions.arms.filter((arm) => !arm.control);

/* What each channel with a message alone gets right, and what it loses of the receiver's right answers. */
function filtersOf(arms) {
  const base = arms.find((arm) => arm.base);
  const own = arms.filter((arm) => arm.sends && !arm.control).flatMap((arm) => [
    [`only ${arm.name}`, `only ${arm.name} is right`, (q, i, all) => rightIn(arm, i) && !all.some((other) => other !== arm && rightIn(other, i))],
    ...(base ? [[`lost ${arm.name}`, `${base.name} right, ${arm.name} wrong`, (q, i) => rightIn(base, i) && arm.marks[i] === "0"]] : []),
  ]);
  return [...FILTERS.slice(0, 2), ...own, ...FILTERS.slice(2)];
}

/* Puts the arms of another run beside these, question by question; a question that it lacks is "not asked" there. */
function joined(own, other, ownId, otherId) {
  if (!other) return own;
  const key = (q, i) => `${text(q.tasks[i])}\n${text(q.ids[i])}`;
  const at = new Map(other.ids.map((_, i) => [key(other, i), i]));
  const order = own.ids.map((_, i) => at.get(key(own, i)) ?? -1);
  const column = (values, empty) => (values.length ? order.map((i) => (i < 0 ? empty : values[i])) : values);
  const moved = (arm) => ({ ...arm, name: `${arm.name} · ${otherId}`, base: false, marks: order.map((i) => (i < 0 ? "." : arm.marks[i])).join(""),
    predicted: column(arm.predicted, -1), strict: column(arm.strict, -1), texts: column(arm.texts, -1), messages: column(arm.messages, -1),
    routed: column(arm.routed, -1), errors: column(arm.errors, -1), nats: column(arm.nats, []),
    e2e_s: Object.fromEntries(order.map((from, to) => [to, arm.e2e_s[from]]).filter(([, value]) => value !== undefined)) });
  return { ...own, arms: [...own.arms.map((arm) => ({ ...arm, name: `${arm.name} · ${ownId}` })), ...other.arms.map(moved)] };
}

function setQuestions(task, other, ownId, otherId) {
  view.questions = joined(task.questions, other?.questions, ownId, otherId);
  view.open.clear();
  view.named = null;
  const q = view.questions, subjects = [...new Set(q.subjects)].filter((index) => index >= 0);
  view.filters = filtersOf(q.arms);
  byId("subject").replaceChildren(h("option", { value: -2 }, "all"), ...subjects.sort((a, b) => text(a).localeCompare(text(b))).map((index) => h("option", { value: index }, text(index))));
  byId("subject").parentElement.hidden = !subjects.length;
  byId("controls").parentElement.hidden = !q.arms.some((arm) => arm.control);
  const counts = view.filters.map(([name, words, keep]) => [name, words, q.ids.filter((_, i) => keep(q, i, matchedArms())).length]);
  byId("show").replaceChildren(...counts.map(([name, words, count]) => h("option", { value: name, disabled: !count }, `${words} (${count})`)));
  refilter();
}

/* Opens a question by its id, on the page of the list that holds it. */
function openQuestion(id) {
  const i = view.questions.ids.findIndex((index) => text(index) === id);
  if (i < 0) return;
  view.open.add(i);
  view.named = id;
  view.page = Math.max(0, Math.floor(view.rows.indexOf(i) / PAGE_ROWS));
  renderQuestions();
  byId(`q${i}`).scrollIntoView();
}

function refilter() {
  const q = view.questions, arms = byId("show").value === "all" ? [] : matchedArms();
  const keep = view.filters.find(([name]) => name === byId("show").value)[2];
  const subject = Number(byId("subject").value), words = byId("search").value.trim().toLowerCase();
  const says = (i) => [q.ids[i], q.questions[i], ...q.choices[i]].some((index) => index >= 0 && text(index).toLowerCase().includes(words));
  view.rows = q.ids.map((_, i) => i).filter((i) => (subject === -2 || q.subjects[i] === subject) && keep(q, i, arms) && (!words || says(i)));
  view.page = 0;
  renderQuestions();
}

function renderQuestions() {
  const q = view.questions, arms = shownArms(), from = view.page * PAGE_ROWS;
  const shown = view.rows.slice(from, from + PAGE_ROWS);
  byId("count").textContent = `${view.rows.length.toLocaleString("en")} of ${q.ids.length.toLocaleString("en")} questions`;
  byId("list").tHead.replaceChildren(h("tr", {}, h("th", { scope: "col" }, "Question"), h("th", { scope: "col" }, "Key"), ...arms.map((arm) => h("th", { scope: "col", style: `color:var(${arm.color})` }, arm.name))));
  byId("list").tBodies[0].replaceChildren(...shown.flatMap((i) => (view.open.has(i) ? [questionRow(q, i, arms), detailRow(q, i, arms)] : [questionRow(q, i, arms)])));
  renderPager();
}

function questionRow(q, i, arms) {
  const open = view.open.has(i);
  const toggle = () => {
    view.open[open ? "delete" : "add"](i);
    view.named = open ? null : text(q.ids[i]);
    renderQuestions();
    remember();
    byId(`q${i}`).focus({ preventScroll: true });
  };
  return h("tr", { class: "row", onclick: (event) => { if (!window.getSelection().toString() || event.detail === 0) toggle(); } },
    h("td", { class: "ask" }, h("button", { id: `q${i}`, type: "button", "aria-expanded": String(open), "aria-controls": `d${i}` }, text(q.questions[i]) ?? text(q.ids[i])),
      q.questions[i] >= 0 ? h("small", {}, text(q.ids[i])) : null),
    h("td", { "data-name": "key" }, text(q.keys[i])), ...arms.map((arm) => h("td", { "data-name": arm.name }, mark(arm, i))));
}

function mark(arm, i) {
  const letter = text(predicted(arm, i));
  const kinds = { 1: ["right", letter ?? "", "right"], 0: ["wrong", letter ?? "", "wrong"], "!": ["failed", "", "error"] };
  if (arm.marks[i] === ".") return h("span", { class: "faint" }, "not asked");
  const [kind, words, said] = arm.marks[i] === "0" && letter === null ? ["none", "", "invalid"] : kinds[arm.marks[i]];
  return h("span", { class: `mark ${kind}`, title: said, role: "img", "aria-label": `${words} ${said}`.trim() }, words);
}

function restored(q, i, column) {
  const wording = column.length ? text(column[i]) : null;
  if (wording === null) return null;
  return wording.replace("\ue000", () => text(q.questions[i]) ?? "").replace(/\ue001(\d+)\ue001/g, (_, index) => text(q.choices[i][Number(index)]) ?? "");
}

function detailRow(q, i, arms) {
  const prompt = restored(q, i, q.prompts), sharers = restored(q, i, q.sharer_prompts);
  const choices = q.choices[i].map((choice, index) => { const name = text(q.labels[i][index]); return h("li", { class: name === text(q.keys[i]) ? "key" : "" }, `${name ?? index + 1}. ${text(choice)}`); });
  return h("tr", { class: "detail", id: `d${i}` }, h("td", { colspan: arms.length + 2 }, h("div", { class: "grid2" },
    h("div", {}, h("h3", {}, text(q.ids[i])), h("p", { class: "count" }, [text(q.tasks[i]), text(q.subjects[i]), `prompt ${text(q.prompt_sha256[i])}`].filter(Boolean).join(" · ")),
      q.questions[i] >= 0 ? h("div", {}, text(q.questions[i])) : null, choices.length ? h("ol", {}, choices) : null,
      prompt === null ? h("p", { class: "empty" }, "The run kept no text of this prompt.") : h("details", {}, h("summary", {}, sharers === null ? "Prompt" : "Receiver's prompt"), h("pre", { tabindex: 0 }, prompt)),
      sharers === null ? null : h("details", {}, h("summary", {}, "Sharer's prompt"), h("pre", { tabindex: 0 }, sharers))),
    h("div", {}, arms.filter((arm) => arm.marks[i] !== ".").map((arm) => answer(arm, i, q))))));
}

function answer(arm, i, q) {
  const at = (column) => (column.length ? text(column[i]) : null);
  const facts = [at(arm.routed) && `routed to ${at(arm.routed)}`, seconds(arm.e2e_s[i]), arm.strict.length && arm.strict[i] !== predicted(arm, i) ? `strict parser: ${at(arm.strict) ?? "none"}` : null].filter(Boolean);
  const nats = arm.nats.length && arm.nats[i].length ? arm.nats[i].map((value, index) => `${text(q.labels[i][index]) ?? index}  ${value.toFixed(2)}`).join("\n") : null;
  return h("div", { class: "answer", style: `border-color:var(${arm.color})` },
    h("div", { class: "who" }, h("strong", {}, arm.name), mark(arm, i), ...facts.map((fact) => h("span", { class: "faint" }, fact))),
    at(arm.messages) === null ? null : h("div", {}, h("span", { class: "faint" }, "message"), h("pre", {}, at(arm.messages))),
    at(arm.errors) === null ? null : h("pre", { class: "bad" }, at(arm.errors)),
    at(arm.texts) === null ? null : h("pre", {}, at(arm.texts)), nats === null ? null : h("pre", { title: "loglikelihood, nats" }, nats));
}

function renderPager() {
  const pages = Math.max(1, Math.ceil(view.rows.length / PAGE_ROWS));
  const go = (step) => () => { view.page += step; renderQuestions(); byId("questions").scrollIntoView(); };
  byId("pager").replaceChildren(h("button", { type: "button", disabled: view.page === 0, onclick: go(-1) }, "Previous"), h("span", {}, `page ${view.page + 1} of ${pages}`),
    h("button", { type: "button", disabled: view.page + 1 >= pages, onclick: go(1) }, "Next"));
}

for (const id of ["show", "subject"]) byId(id).addEventListener("change", refilter);
byId("controls").addEventListener("change", renderQuestions);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
let waiting = 0;
byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refilter, 150); });
