// The chat page: its state, and what each button does. Other files know how a part looks; this one knows when.
//
//   texts.js words · storage.js choices · history.js chats on disk · api.js requests · markdown.js replies as DOM nodes
//   messages.js one message · sidebar.js the list of chats · settings.js the dialog
import * as api from "./api.js";
import * as history from "./history.js";
import { isSubmit, messageItem, renderContent } from "./messages.js";
import * as settings from "./settings.js";
import * as sidebar from "./sidebar.js";
import { load, loadOfTab, save, saveOfTab } from "./storage.js";
import { languageTag, switchLanguage, text } from "./texts.js";

const PAGE = 40; // messages that are rendered at first, and with each look further back
const MAX_SENT_CHARACTERS = 200_000; // of the newest messages: within the server's limit of a request's bytes in any language
const SAVE_EVERY_MS = 1000; // while a reply grows
const $ = (id) => document.getElementById(id);

let theme = load("theme", "auto");
let about = { model: "Rayse", feedback: false, persona: "", context_tokens: 0 };
let models = [];
let model = loadOfTab("model", "");
let keyNeeded = false; // whether the server refused the last request for /about
let serverState = "starting"; // starting, ready or unreachable
let chat = null, messages = []; // the chat that is displayed
let firstRendered = 0; // index of the first message that is
let pinned = true; // whether the end of the chat is in view, and new text is followed
let edited = ""; // id of the message that is being edited
const generations = new Map(); // chat's id → AbortController of its reply; chats that are not displayed go on
const drafts = new Map(); // chat's id → text that was typed and not sent

// ---- rendering ----
function renderFrame() { // everything but the messages and the values of the settings
  document.documentElement.lang = languageTag();
  document.documentElement.dataset.theme = theme;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  $("message").placeholder = text("message");
  $("theme").textContent = "◐ " + text(theme);
  $("theme").setAttribute("aria-label", `${text("theme")}: ${text(theme)}`);
  $("language").textContent = text("other_language");
  $("language").setAttribute("aria-label", `${text("other_language")} · ${text("switch_language")}`);
  $("dot").className = "dot " + serverState;
  $("dot").title = text(serverState);
  $("dot").setAttribute("aria-label", $("dot").title);
  $("problem").textContent = history.problem ? text("not_kept") + history.problem : "";
  renderModels();
  renderSendButton();
  sidebar.render(history.list(), chat?.id, { open: openChat, rename, remove: removeChat });
}

function renderModels() { // a choice where the server has several models, else the name
  $("name").textContent = about.model;
  $("name").hidden = models.length > 1;
  $("models").hidden = models.length < 2;
  const names = models.map(({ id }) => id);
  if ([...$("models").options].map((option) => option.value).join("\n") !== names.join("\n")) $("models").replaceChildren(...names.map((name) => new Option(name, name)));
  $("models").value = chosenModel();
}

const chosenModel = () => models.some(({ id }) => id === model) ? model : about.model;
const contextTokens = () => models.find(({ id }) => id === chosenModel())?.max_model_len ?? about.context_tokens;

// /about describes the first model alone: of another, its own persona is not known here.
const renderSettings = () => settings.render({ persona: chosenModel() === about.model ? about.persona : "", context_tokens: contextTokens() });

function renderSendButton() {
  $("send").textContent = text(isGenerating() ? "stop" : "send");
  $("send").disabled = !isGenerating() && !$("message").value.trim();
}

const isGenerating = () => Boolean(chat && generations.has(chat.id));

function item(message) {
  const isLast = message === messages.at(-1);
  const state = { isLast, generating: isLast && message.role === "assistant" && isGenerating(), editing: message.id === edited, feedback: about.feedback, severalModels: models.length > 1 };
  return messageItem(message, state, { edit, resend, cancel, regenerate, feedback });
}

function renderMessages() {
  firstRendered = Math.max(0, messages.length - PAGE);
  $("messages").replaceChildren(...messages.slice(firstRendered).map(item));
  $("welcome").hidden = messages.length > 0;
  $("earlier").hidden = firstRendered === 0;
  scrollDown();
}

function renderMessage(message) { // again, in its place
  const element = document.getElementById("m-" + message.id), areSourcesOpen = element?.querySelector(".sources")?.open;
  if (!element) return;
  element.replaceWith(item(message));
  if (areSourcesOpen) document.querySelector(`#m-${message.id} .sources`).open = true;
}

function appendMessage(message) {
  $("welcome").hidden = true;
  $("messages").append(item(message));
  scrollDown();
}

function renderEarlier() {
  const from = Math.max(0, firstRendered - PAGE), main = $("main"), distance = main.scrollHeight - main.scrollTop;
  $("messages").prepend(...messages.slice(from, firstRendered).map(item));
  firstRendered = from;
  $("earlier").hidden = from === 0;
  main.scrollTop = main.scrollHeight - distance; // what is read stays where it is
}

function scrollDown() {
  pinned = true;
  $("main").scrollTop = $("main").scrollHeight;
}

function followScrolling() { // a reader who scrolled up stays there; at the end, new text is followed
  const main = $("main");
  let top = 0;
  main.onscroll = () => {
    const isUp = main.scrollTop < top;
    if (main.scrollHeight - main.scrollTop - main.clientHeight < 40) pinned = true; else if (isUp) pinned = false;
    if (!pinned && isUp && main.scrollTop < 200 && firstRendered > 0) renderEarlier();
    top = main.scrollTop;
  };
  new ResizeObserver(() => { if (pinned) main.scrollTop = main.scrollHeight }).observe($("messages"));
}

const announce = (words) => { $("announcement").textContent = words }; // for screen readers: once a reply, not once a token

// ---- chats ----
async function openChat(next) {
  if (chat) drafts.set(chat.id, $("message").value);
  edited = "";
  messages = await history.messagesOf(next.id);
  chat = next;
  saveOfTab("chat", chat.id);
  $("message").value = drafts.get(chat.id) ?? "";
  fitInput();
  renderFrame();
  renderMessages();
}

async function newChat() {
  sidebar.setOpen(false);
  await openChat(history.create());
  $("message").focus();
}

async function rename(renamed, title) {
  renamed.title = title;
  await history.saveChat(renamed);
  renderFrame();
}

async function removeChat(removed) {
  generations.get(removed.id)?.abort();
  await history.remove(removed);
  if (removed.id === chat.id) await openChat(history.list()[0] ?? history.create());
  renderFrame();
}

async function changedElsewhere(id) { // by another tab
  if (chat?.id === id && !isGenerating()) {
    chat = history.find(id) ?? history.create();
    messages = await history.messagesOf(chat.id);
    renderMessages();
  }
  renderFrame();
}

// ---- replies ----
function promptBefore(allMessages, reply) { // the messages that a reply answers, newest within the limit
  const conversation = allMessages.slice(0, allMessages.indexOf(reply)).filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
  let characters = 0;
  const kept = conversation.reverse().filter(({ content }, index) => (characters += content.length) <= MAX_SENT_CHARACTERS || index === 0).reverse();
  while (kept.length > 1 && kept[0].role === "assistant") kept.shift(); // a turn begins with its user
  const system = reply.system ?? "";
  return { messages: system ? [{ role: "system", content: system }, ...kept] : kept, leftOut: conversation.length - kept.length };
}

async function generateReply() {
  const itsChat = chat, itsMessages = messages, control = new AbortController();
  const reply = { id: history.newId(), role: "assistant", content: "", note: "interrupted", system: settings.systemPrompt(), model: chosenModel() };
  generations.set(itsChat.id, control);
  itsMessages.push(reply);
  const before = itsMessages.at(-3); // its button to regenerate goes
  if (before) renderMessage(before);
  appendMessage(reply);
  renderFrame();
  announce(text("generating"));
  const prompt = promptBefore(itsMessages, reply);
  const body = { model: reply.model, messages: prompt.messages, ...settings.sampling(contextTokens()) };
  try {
    const turnsLeftOut = await api.generate(body, control.signal, receiver(itsChat, reply));
    reply.turnsLeftOut = turnsLeftOut + prompt.leftOut;
    if (reply.note === "interrupted") delete reply.note;
  } catch (error) {
    delete reply.replyId; // the server remembers complete replies only: no feedback on this one
    delete reply.receipt;
    reply.failed = error.name !== "AbortError";
    reply.note = reply.failed ? error.message : "stopped";
  }
  generations.delete(itsChat.id);
  if (history.find(itsChat.id)) await history.saveMessage(itsChat, reply); // unless it was deleted meanwhile
  renderMessage(reply);
  renderFrame();
  announce(`${text("assistant")}: ${reply.content} ${reply.note ? text(reply.note) : ""}`);
  checkHealth();
}

function receiver(itsChat, reply) { // adds chunks to a reply; renders once a frame, since each look renders all of it
  let waiting = false, saved = Date.now();
  return (chunk) => {
    const choice = chunk.choices?.[0];
    reply.replyId = chunk.id;
    if (chunk.rayse_receipt) reply.receipt = chunk.rayse_receipt;
    if (chunk.rayse_guard) reply.guard = chunk.rayse_guard;
    if (chunk.rayse_citations) reply.citations = chunk.rayse_citations;
    if (chunk.rayse_quality) reply.quality = chunk.rayse_quality;
    if (choice?.finish_reason === "length") reply.note = "length_limit";
    reply.content += choice?.delta?.content ?? "";
    if (Date.now() - saved > SAVE_EVERY_MS && history.find(itsChat.id)) { saved = Date.now(); history.saveMessage(itsChat, reply) }
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const content = document.querySelector(`#m-${reply.id}.generating .content`);
      if (content) renderContent(content, reply);
    });
  };
}

async function send(content) {
  const message = { id: history.newId(), role: "user", content };
  if (!chat.title) chat.title = content.replace(/\s+/g, " ").slice(0, 60);
  messages.push(message);
  appendMessage(message);
  const reply = generateReply(); // at once: the disk need not be waited for
  await history.saveMessage(chat, message);
  renderFrame();
  await reply;
}

async function regenerate() {
  if (isGenerating()) return;
  await history.truncate(chat, messages, messages.length - 1);
  $("messages").lastElementChild.remove();
  await generateReply();
}

function edit(message) {
  if (isGenerating()) return;
  const before = messages.find(({ id }) => id === edited);
  edited = message.id;
  if (before) renderMessage(before);
  renderMessage(message);
  document.querySelector(`#m-${message.id} textarea`).focus();
}

function cancel(message) {
  edited = "";
  renderMessage(message);
  $("message").focus();
}

async function resend(message, content) {
  edited = "";
  await history.truncate(chat, messages, messages.indexOf(message));
  renderMessages();
  await send(content);
}

async function feedback(message, { opinion, ...changes }) {
  const itsChat = chat; // another may be opened meanwhile
  Object.assign(message, changes, { opinion });
  if (changes.thumb) message.feedbackProblem = await api.sendFeedback(message, promptBefore(messages, message).messages);
  await history.saveMessage(itsChat, { ...message, opinion: "closed" });
  renderMessage(message);
  const form = document.querySelector(`#m-${message.id} .comment`);
  form?.scrollIntoView({ block: "nearest" });
  (form?.querySelector("textarea") ?? document.querySelector(`#m-${message.id} [data-thumb=${message.thumb}]`))?.focus();
}

// ---- the server ----
async function checkHealth() {
  const { status, value } = await api.read("health");
  serverState = status === 200 ? "ready" : status ? "starting" : "unreachable";
  const modelChanged = value.model !== about.model || value.version !== about.version; // the server was restarted with another one
  if (status === 200 && modelChanged && !keyNeeded && !generations.size) return loadAbout();
  renderFrame();
}

async function loadAbout() {
  const [described, listed] = await Promise.all([api.read("about"), api.read("v1/models")]);
  const hadFeedback = about.feedback, hadSeveral = models.length > 1;
  if (described.status === 200) about = described.value;
  if (listed.status === 200) models = listed.value.data;
  keyNeeded = described.status === 401;
  if (keyNeeded && !$("dialog").open) $("dialog").showModal();
  renderSettings();
  renderFrame();
  if ((about.feedback !== hadFeedback || models.length > 1 !== hadSeveral) && !edited) renderMessages(); // with thumbs and models' names now, or without
}

// ---- input ----
function fitInput() {
  $("message").style.height = "auto";
  $("message").style.height = $("message").scrollHeight + "px";
  renderSendButton();
}

function connect() {
  settings.connect(renderSettings, loadAbout);
  sidebar.connect();
  $("new_chat").onclick = newChat;
  $("earlier").onclick = renderEarlier;
  followScrolling();
  $("models").onchange = () => { model = $("models").value; saveOfTab("model", model); renderSettings() };
  $("theme").onclick = () => { theme = { auto: "light", light: "dark", dark: "auto" }[theme]; save("theme", theme); renderFrame() };
  $("language").onclick = () => { switchLanguage(); renderFrame(); renderSettings(); renderMessages() };
  $("message").oninput = fitInput;
  $("message").onkeydown = (event) => {
    if (isSubmit(event)) { event.preventDefault(); if (!isGenerating()) $("form").requestSubmit() }
  };
  document.onkeydown = (event) => {
    if (event.key !== "Escape" || $("dialog").open) return;
    if (document.body.classList.contains("menu-open")) { sidebar.setOpen(false); $("menu").focus() } else generations.get(chat?.id)?.abort();
  };
  $("form").onsubmit = (event) => {
    event.preventDefault();
    if (isGenerating()) return generations.get(chat.id).abort();
    const content = $("message").value.trim();
    if (!content) return;
    $("message").value = "";
    fitInput();
    send(content);
  };
}

async function start() {
  connect();
  await history.open(changedElsewhere);
  await openChat(history.find(loadOfTab("chat", "")) ?? history.create());
  $("message").focus();
  await Promise.all([loadAbout(), checkHealth()]);
  setInterval(checkHealth, 15000);
}

start();
