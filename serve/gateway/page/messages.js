// One message of a chat as an item of the list: its text, its notes and sources, and the buttons below it.
//
//   message: {id, role, content, model?, replyId?, receipt?, note?, failed?, guard?, citations?, quality?,
//             thumb?, comment?, correction?, report?, feedbackProblem?}
import { copyButton, make, render, safeLink } from "./markdown.js";
import { text } from "./texts.js";

export const MAX_COMMENT = 4000;
const MAX_NAMES = 3; // of documents beside the word Sources
/** Whether a key sends a text: Enter, unless an input method that composes Chinese takes it. */
export const isSubmit = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
const THUMB = "M7 10.5v10H3.5v-10H7Zm0 0 4.2-8c1.7 0 2.8 1.2 2.8 2.8V9h5c1.3 0 2.2 1.2 1.9 2.5l-1.7 7.2c-.2 1-1.1 1.8-2.2 1.8H7";

/** The item of a message. state: {generating, isLast, editing, feedback: whether the server stores any, severalModels}; act: functions
 *  {edit, resend, cancel, regenerate, feedback}. */
export function messageItem(message, state, act) {
  const item = make("li", { className: `message ${message.role}${state.generating ? " generating" : ""}`, id: "m-" + message.id });
  if (message.replyId) item.dataset.replyId = message.replyId;
  const body = make("div", { className: "body" });
  item.append(make("span", { className: "visually-hidden", textContent: text(message.role) + ": " }), body);
  if (state.editing) { body.append(editor(message, act)); return item }
  const content = make("div", { className: "content" });
  renderContent(content, message);
  body.append(content);
  if (!state.generating) body.append(...notes(message), ...sources(message));
  if (message.role === "user") body.append(userActions(message, act));
  else if (!state.generating) body.append(...replyActions(message, state, act));
  return item;
}

/** Fills an element with a message's text: Markdown of a reply, a user's text as it was typed. */
export function renderContent(element, message) {
  if (message.role === "user") element.textContent = message.content;
  else element.replaceChildren(...render(message.content));
}

function notes(message) {
  const lines = [];
  if (message.guard) lines.push(text("declined") + (message.guard.reason ? ` (${message.guard.reason})` : ""));
  const low = message.quality?.low ?? [];
  if (low.length) lines.push(text("low_quality") + low.map((measure) => `${text(measure)} ${message.quality[measure].toFixed(2)}`).join(", "));
  if (message.turnsLeftOut) lines.push(text("turns_left_out"));
  if (message.note) lines.push(text(message.note));
  return lines.map((line) => make("p", { className: "note" + (message.failed && line === text(message.note) ? " failed" : ""), textContent: line }));
}

function sources(message) {
  const citations = Array.isArray(message.citations) ? message.citations.slice(0, 100) : [];
  if (!citations.length) return [];
  const list = make("ol", {}, ...citations.map(({ source, heading, passage, score }) => make("li", {},
    safeLink(String(source ?? ""), String(source ?? "")),
    ...(heading ? [make("span", { textContent: ` · ${heading}` })] : []),
    ...(typeof score === "number" ? [make("span", { className: "score", textContent: ` ${text("score")} ${score.toFixed(2)}` })] : []),
    make("blockquote", { textContent: String(passage ?? "") }))));
  const names = [...new Set(citations.map(({ source }) => String(source ?? "").split("/").pop()))].filter(Boolean);
  const title = `${text("sources")} (${citations.length})${names.length ? ": " : ""}${names.slice(0, MAX_NAMES).join(", ")}${names.length > MAX_NAMES ? ", …" : ""}`;
  return [make("details", { className: "sources" }, make("summary", { textContent: title }), list)];
}

function button(name, onclick, properties = {}) {
  return make("button", { type: "button", textContent: text(name), onclick, ...properties });
}

function userActions(message, act) {
  return make("div", { className: "actions" }, ...copyButton("copy", () => message.content), button("edit", () => act.edit(message)));
}

function editor(message, act) {
  const area = make("textarea", { value: message.content, rows: Math.min(12, message.content.split("\n").length + 1) });
  area.setAttribute("aria-label", text("edit"));
  const form = make("form", { className: "editor" }, area, make("p", { className: "note", textContent: text("edit_hint") }),
    make("div", { className: "row" }, button("cancel", () => act.cancel(message)), make("button", { className: "primary", textContent: text("resend") })));
  form.onsubmit = (event) => { event.preventDefault(); if (area.value.trim()) act.resend(message, area.value.trim()) };
  area.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); act.cancel(message) }
    if (isSubmit(event)) { event.preventDefault(); form.requestSubmit() }
  };
  return form;
}

function replyActions(message, state, act) {
  const row = make("div", { className: "actions" }, ...copyButton("copy", () => message.content));
  if (message.model && state.severalModels) row.prepend(make("span", { className: "model", textContent: message.model }));
  if (state.isLast) row.append(button("regenerate", () => act.regenerate(), { className: "regenerate" }));
  if (!message.replyId || !state.feedback) return [row];
  for (const thumb of ["up", "down"]) {
    const element = button(thumb, () => act.feedback(message, { thumb, opinion: "open" }), { title: text(thumb), textContent: "" });
    element.append(thumbIcon());
    element.dataset.thumb = thumb;
    element.setAttribute("aria-label", text(thumb));
    element.setAttribute("aria-pressed", String(message.thumb === thumb));
    row.append(element);
  }
  const problem = message.feedbackProblem; // undefined: none was sent; empty: it is stored
  const status = make("span", { className: "feedback-status", textContent: problem === undefined ? "" : problem ? text("not_stored") + text(problem) : text("stored") });
  status.setAttribute("role", "status");
  row.append(status);
  return message.opinion === "open" ? [row, opinionForm(message, act)] : [row];
}

function opinionForm(message, act) {
  const field = (name, value) => {
    const area = make("textarea", { id: `${name}-${message.id}`, rows: name === "comment" ? 1 : 3, maxLength: name === "comment" ? MAX_COMMENT : 100_000, value });
    area.name = name;
    return [make("label", { htmlFor: area.id, textContent: text(name) }), area];
  };
  const form = make("form", { className: "comment" }, ...field("comment", message.comment ?? ""), ...(message.thumb === "down" ? field("correction", message.correction ?? "") : []),
    make("div", { className: "row" }, button("cancel", () => act.feedback(message, { opinion: "closed" })), make("button", { className: "primary", textContent: text("send_comment") })));
  form.elements.comment.onkeydown = (event) => { if (isSubmit(event)) { event.preventDefault(); form.requestSubmit() } };
  form.onsubmit = (event) => {
    event.preventDefault();
    act.feedback(message, { opinion: "closed", thumb: message.thumb, comment: form.elements.comment.value, correction: form.elements.correction?.value.trim() ?? "" });
  };
  return form;
}

function thumbIcon() {
  const image = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  image.setAttribute("viewBox", "0 0 24 24");
  image.setAttribute("aria-hidden", "true");
  path.setAttribute("d", THUMB);
  image.append(path);
  return image;
}
