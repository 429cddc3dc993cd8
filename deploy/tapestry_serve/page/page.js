"use strict";
// One page over /v1/tapestry/compare. Text goes into the page as text alone; nothing is
// loaded from elsewhere, and nothing is kept: a conversation ends with its page.

const found = (id) => document.getElementById(id);
let texts = {};
let turns = {}; // of each model: what was asked and answered, in turn
let running = null;

function say(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

function made(name, options = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") node.textContent = value;
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function headers() {
  const token = found("token").value.trim();
  const given = { "content-type": "application/json" };
  if (token) given.authorization = `Bearer ${token}`;
  return given;
}

async function speak(language) {
  const answer = await fetch(`messages/${encodeURIComponent(language)}.json`);
  texts = await answer.json();
  document.documentElement.lang = language;
  document.documentElement.dir = texts.direction;
  for (const node of document.querySelectorAll("[data-text]")) {
    node.textContent = say(node.dataset.text);
  }
  document.title = say("title");
  found("answers").setAttribute("aria-label", say("answers"));
}

async function listModels() {
  const answer = await fetch("v1/models", { headers: headers() });
  found("token-row").hidden = answer.status !== 401 && !found("token").value;
  if (!answer.ok) {
    found("status").textContent = say("unavailable");
    return;
  }
  found("status").textContent = "";
  const { data } = await answer.json();
  found("models").replaceChildren();
  for (const model of data) {
    const box = made("input", { type: "checkbox", value: model.id, name: "model" });
    box.checked = !model.tapestry.refused;
    box.disabled = Boolean(model.tapestry.refused);
    found("models").append(made("label", {}, box, made("span", { text: shown(model) })));
  }
}

function shown(model) {
  const [adapter] = model.tapestry.adapters;
  const name = adapter?.country ? `${model.id} (${adapter.country})` : model.id;
  return model.tapestry.refused ? `${name}: ${say("withdrawn")}` : name;
}

function pair(list, key, value, isCode = false) {
  if (value === null || value === undefined || value === "") return;
  const shownValue = isCode ? made("code", { text: value }) : String(value);
  list.append(made("dt", { text: say(key) }), made("dd", {}, shownValue));
}

function chain(lineage) {
  const list = made("dl");
  pair(list, "base", lineage.base.name);
  pair(list, "base_digest", lineage.base.digest, true);
  for (const each of lineage.adapters) {
    pair(list, "adapter", each.version ? `${each.name} ${each.version}` : each.name);
    pair(list, "country", each.country);
    pair(list, "licence", each.licence);
    pair(list, "adapter_digest", each.manifest_digest, true);
  }
  if (lineage.log) {
    const entries = lineage.log.entry_indexes.join(", ");
    pair(list, "log", say("log_size", { size: lineage.log.size, origin: lineage.log.origin }));
    pair(list, "entries", entries);
  } else {
    pair(list, "log", say("no_log"));
  }
  const privacy = lineage.privacy;
  pair(list, "privacy", privacy ? say("epsilon", privacy) : say("no_privacy"));
  pair(list, "answer_digest", lineage.answer, true);
  return list;
}

function column(id, adapter) {
  const text = made("div", { class: "text", dir: "auto" });
  if (adapter?.language) text.lang = adapter.language;
  const badge = made("span", { class: "badge" });
  const head = made("div", {}, made("h2", { text: id }), badge);
  const node = made("article", { "aria-busy": "true" }, head, text);
  return { node, text, badge, said: "" };
}

function finish(entry, question, lineage) {
  const key = lineage.verified === "log" ? "verified_log" : "verified_files";
  entry.badge.textContent = say(key);
  entry.badge.classList.add(lineage.verified);
  const save = made("button", { type: "button", text: say("complain") });
  save.addEventListener("click", () => saveComplaint(question, entry.said, lineage));
  const about = made("details", {}, made("summary", { text: say("about") }));
  about.append(chain(lineage), save);
  entry.node.append(about);
  entry.node.setAttribute("aria-busy", "false");
  if (entry.adapterLanguage) entry.text.lang = entry.adapterLanguage;
}

function saveComplaint(question, answer, lineage) {
  const file = { format: "tapestry-complaint/1", question, answer, lineage };
  const data = new Blob([JSON.stringify(file, null, 2) + "\n"], { type: "application/json" });
  const link = made("a", { download: "complaint.json", href: URL.createObjectURL(data) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function take(event, columns, question) {
  const entry = columns[event.model];
  if (!entry) return;
  if (event.error) {
    entry.text.append(made("p", { class: "fault", text: event.error.message }));
    entry.node.setAttribute("aria-busy", "false");
    return;
  }
  entry.said += event.text;
  entry.text.textContent = entry.said;
  if (event.tapestry) {
    finish(entry, question, event.tapestry);
    turns[event.model] = [...(turns[event.model] ?? []), question, entry.said];
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(question, models) {
  const columns = {};
  const row = made("div", { class: "columns" });
  for (const id of models) {
    columns[id] = column(id);
    row.append(columns[id].node);
  }
  const asked = made("p", { class: "asked", dir: "auto", text: question });
  found("answers").prepend(asked, row);
  running = new AbortController();
  const body = {
    models,
    conversations: Object.fromEntries(models.map((id) => [id, [...(turns[id] ?? []), question]])),
  };
  const answer = await fetch("v1/tapestry/compare", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
  });
  if (!answer.ok) {
    const fault = await answer.json();
    throw new Error(fault.error.message);
  }
  for await (const event of events(answer.body)) take(event, columns, question);
}

async function submit(event) {
  event.preventDefault();
  const question = found("question").value.trim();
  const boxes = [...document.querySelectorAll("#models input:checked")];
  if (!question || running) return;
  if (!boxes.length) {
    found("status").textContent = say("choose_one");
    return;
  }
  found("send").disabled = true;
  found("stop").disabled = false;
  found("status").textContent = say("answering");
  try {
    await ask(question, boxes.map((box) => box.value));
    found("status").textContent = say("done");
    found("question").value = "";
  } catch (error) {
    const ended = error.name === "AbortError";
    found("status").textContent = ended ? say("stopped") : error.message || say("unavailable");
  } finally {
    running = null;
    found("send").disabled = false;
    found("stop").disabled = true;
    for (const node of document.querySelectorAll("[aria-busy=true]")) {
      node.setAttribute("aria-busy", "false");
    }
    found("question").focus();
  }
}

async function start() {
  const languages = JSON.parse(await (await fetch("messages/index.json")).text());
  const chosen = navigator.languages
    .map((each) => each.split("-")[0])
    .find((each) => each in languages);
  for (const [code, name] of Object.entries(languages)) {
    found("interface").append(made("option", { value: code, text: name, lang: code }));
  }
  found("interface").value = chosen ?? "en";
  await speak(found("interface").value);
  await listModels();
}

found("interface").addEventListener("change", async () => {
  await speak(found("interface").value);
  await listModels();
});
found("token").addEventListener("change", listModels);
found("ask").addEventListener("submit", submit);
found("stop").addEventListener("click", () => running?.abort());
found("fresh").addEventListener("click", () => {
  turns = {};
  found("answers").replaceChildren();
  found("question").focus();
});
found("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    found("ask").requestSubmit();
  }
});
start();
